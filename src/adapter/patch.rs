//! What an adapter does at one linear site.

use candle_core::Tensor;

/// The change at one linear site, as one formula with parts that may be absent:
/// `y = rescale_output ⊙ (output_scale ⊙ (W·(rescale_input ⊙ x) + scale·B(A·x)) + bias)`.
/// LoRA has `low_rank`; DoRA adds `output_scale`; IA3 has `rescale_output` or, at feed-forward sites, `rescale_input`;
/// `modules_to_save` has `weight` and `bias` in place of the base's.
/// Sources: LoRA arXiv 2106.09685, DoRA 2402.09353, (IA)³ 2205.05638; the order of operations is PEFT's.
#[derive(Clone, Debug, Default)]
pub struct LinearPatch {
    /// [out, in], in place of the base's weight.
    pub weight: Option<Tensor>,
    /// `[out]`, in place of the base's bias.
    pub bias: Option<Tensor>,
    pub low_rank: Option<LowRank>,
    /// `[out]`: DoRA's `m / ‖W + scale·BA‖`, computed once when the adapter is read.
    pub output_scale: Option<Tensor>,
    /// `[in]`.
    pub rescale_input: Option<Tensor>,
    /// `[out]`; scales the bias too.
    pub rescale_output: Option<Tensor>,
}

/// The product of two thin matrices, `scale · B·A`.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// [rank, in].
    pub a: Tensor,
    /// [out, rank].
    pub b: Tensor,
    /// alpha/rank, or alpha/√rank with rsLoRA.
    pub scale: f32,
}

impl LinearPatch {
    /// Every tensor held here.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let low_rank = self.low_rank.iter().flat_map(|p| [&p.a, &p.b]);
        [&self.weight, &self.bias, &self.output_scale, &self.rescale_input, &self.rescale_output]
            .into_iter()
            .flatten()
            .chain(low_rank)
    }
}
