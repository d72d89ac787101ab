//! What keys and values look like, and the blocks they are kept in.

/// Tokens per block.
pub const BLOCK_TOKENS: usize = 16;

/// The index of a block in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// What one token's keys and values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Bytes of a number.
    pub bytes: usize,
}

impl KvShape {
    /// Bytes of one block, keys and values of all layers.
    pub fn block_bytes(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * BLOCK_TOKENS * self.bytes
    }
}
