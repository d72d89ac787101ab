//! Learned embeddings that stand among the tokens of a prompt.

use candle_core::Tensor;

/// Rows of prompt tuning, P-tuning or ruprompts. Token id `vocab + i` means row `i`.
#[derive(Clone, Debug)]
pub struct VirtualTokens {
    /// [count, hidden], as stored.
    pub embeddings: Tensor,
    /// Whether all rows stand before the prompt (prompt tuning, P-tuning), or where the prompt format says (ruprompts).
    pub leading: bool,
}

impl VirtualTokens {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.embeddings.dims()[0]
    }
}
