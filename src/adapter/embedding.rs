//! What an adapter does to the token embedding, or to learned positions.

use candle_core::Tensor;

use super::LowRank;

/// The change to an embedding: a matrix in place of the base's, a low-rank addition, or DoRA's both parts.
/// `e(t) = output_scale ⊙ (E[t] + scale · B·A[:, t])`, as PEFT's `Embedding` and `DoraEmbeddingLayer` compute it.
#[derive(Clone, Debug, Default)]
pub struct EmbeddingPatch {
    /// [vocab, hidden], in place of the base's.
    pub weight: Option<Tensor>,
    /// `a` is stored transposed, [vocab, rank], so that a token is a row; `b` is [hidden, rank].
    pub low_rank: Option<LowRank>,
    /// `[hidden]`: DoRA's `m / ‖E + scale·(BA)ᵀ‖`, the norm of each column over the vocabulary, computed once when the adapter is read.
    pub output_scale: Option<Tensor>,
}

impl EmbeddingPatch {
    /// Every tensor held here.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let low_rank = self.low_rank.iter().flat_map(|p| [&p.a, &p.b]);
        [&self.weight, &self.output_scale].into_iter().flatten().chain(low_rank)
    }
}
