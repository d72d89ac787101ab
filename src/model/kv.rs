//! The paged store of keys and values.

use candle_core::{DType, Device, Result, Tensor};

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
}

impl KvShape {
    /// Bytes of one block, keys and values of all layers, in f32.
    pub fn block_bytes(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * BLOCK_TOKENS * size_of::<f32>()
    }
}

/// Keys and values of all sequences, in blocks of [`BLOCK_TOKENS`].
pub struct KvStore {
    /// Per layer, [blocks, kv_heads, BLOCK_TOKENS, head_dim].
    pub keys: Vec<Tensor>,
    /// Per layer, [blocks, kv_heads, BLOCK_TOKENS, head_dim].
    pub values: Vec<Tensor>,
    pub shape: KvShape,
    pub blocks: usize,
}

impl KvStore {
    /// A store of `blocks` blocks; on a CPU, memory is taken as blocks are first written.
    pub fn new(shape: KvShape, blocks: usize, device: &Device) -> Result<Self> {
        let dims = (blocks, shape.kv_heads, BLOCK_TOKENS, shape.head_dim);
        let make = || (0..shape.layers).map(|_| Tensor::zeros(dims, DType::F32, device)).collect::<Result<Vec<_>>>();
        Ok(Self { keys: make()?, values: make()?, shape, blocks })
    }

    /// A store for encoders, which keep nothing.
    pub fn none() -> Self {
        Self { keys: vec![], values: vec![], shape: KvShape { layers: 0, kv_heads: 0, head_dim: 0 }, blocks: 0 }
    }
}
