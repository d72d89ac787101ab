//! What an adapter does to the token embedding.

use candle_core::Tensor;

use super::LowRank;

/// The change to the token embedding: a matrix in place of the base's, a low-rank addition, or both parts of DoRA's.
/// `e(t) = output_scale ⊙ (E[t] + scale · B·A[:, t])`.
#[derive(Clone, Debug, Default)]
pub struct EmbeddingPatch {
    /// [vocab, hidden], in place of the base's.
    pub weight: Option<Tensor>,
    /// `a` is stored transposed, [vocab, rank], so that a token is a row; `b` is [hidden, rank].
    pub low_rank: Option<LowRank>,
    /// [vocab] or [hidden], see the reader; DoRA on embeddings.
    pub output_scale: Option<Tensor>,
}

impl EmbeddingPatch {
    /// Every tensor held here.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let low_rank = self.low_rank.iter().flat_map(|p| [&p.a, &p.b]);
        [&self.weight, &self.output_scale].into_iter().flatten().chain(low_rank)
    }
}
