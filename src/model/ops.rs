//! The operations bodies are made of: coarse, so that kernels can fuse behind them. The only place that knows on which device
//! a step runs, and the only one that looks at adapters.

#![allow(clippy::disallowed_methods, reason = "the one place that knows which pass it is in")]

mod cpu;
mod gpu;
pub mod tape;

use candle_core::Result;
use repertoire_kernels::cpu::Activation;

pub use cpu::CpuModel;
pub use gpu::GpuModel;

use super::layers::{Attention, Embedding, Heads, Linear, Norm};

/// One step of a [`Batch`](super::Batch), under way. Matrices have one line for each token, unless said otherwise.
pub trait Ops {
    /// What layers compute, and the sum that they add to.
    type Matrix;
    /// What the rows of the step asked for.
    type Answer;

    /// The sum that layers add to, before the first: [tokens, hidden].
    fn embed(&mut self, embedding: &Embedding) -> Result<Self::Matrix>;

    /// Normalises the lines of a sum.
    fn norm(&mut self, sum: &Self::Matrix, norm: &Norm) -> Result<Self::Matrix>;

    /// Normalises the lines of a sum and goes on with them as the sum.
    fn norm_sum(&mut self, sum: Self::Matrix, norm: &Norm) -> Result<Self::Matrix>;

    /// [tokens, out] of x [tokens, in] at linear sites that read the same x, with their adapters.
    fn linear_group<const N: usize>(&mut self, x: &Self::Matrix, layers: [&Linear; N]) -> Result<[Self::Matrix; N]>;

    /// [tokens, out] of x [tokens, in] at a linear site, with its adapters.
    fn linear(&mut self, x: &Self::Matrix, layer: &Linear) -> Result<Self::Matrix> {
        let [y] = self.linear_group(x, [layer])?;
        Ok(y)
    }

    /// [`Self::linear_group`] of the normalised lines of a sum.
    fn normed_group<const N: usize>(
        &mut self,
        sum: &Self::Matrix,
        norm: &Norm,
        layers: [&Linear; N],
    ) -> Result<[Self::Matrix; N]> {
        let x = self.norm(sum, norm)?;
        self.linear_group(&x, layers)
    }

    /// Adds to a sum what a linear site makes of x, with its adapters.
    fn add_linear(&mut self, sum: Self::Matrix, x: &Self::Matrix, layer: &Linear) -> Result<Self::Matrix>;

    /// [`Self::add_linear`], then [`Self::norm_sum`].
    fn add_linear_norm(
        &mut self,
        sum: Self::Matrix,
        x: &Self::Matrix,
        layer: &Linear,
        norm: &Norm,
    ) -> Result<Self::Matrix> {
        let sum = self.add_linear(sum, x, layer)?;
        self.norm_sum(sum, norm)
    }

    /// The three thirds of the columns.
    fn split3(&mut self, fused: Self::Matrix) -> Result<[Self::Matrix; 3]>;

    /// Attention of a decoder's layer: keys and values are written to the store, in each layer those of all rows before any are
    /// read, and every token sees what the store holds of its row up to itself. Queries are [tokens, heads · head_dim], keys
    /// and values [tokens, kv_heads · head_dim].
    fn attend(
        &mut self,
        layer: usize,
        queries_keys_values: [Self::Matrix; 3],
        attention: Attention<'_>,
    ) -> Result<Self::Matrix>;

    /// Attention of an encoder's layer: every token sees its whole row, and before it the key-value prefix of its adapter.
    fn attend_both_ways(
        &mut self,
        layer: usize,
        queries_keys_values: [Self::Matrix; 3],
        heads: Heads,
    ) -> Result<Self::Matrix>;

    /// `activation(gate(x)) ⊙ up(x)` of two linear sites, with their adapters.
    fn gated(&mut self, x: &Self::Matrix, sites: [&Linear; 2], activation: Activation) -> Result<Self::Matrix> {
        let [gate, up] = self.linear_group(x, sites)?;
        self.gate(gate, up, activation)
    }

    /// [`Self::gated`] of the normalised lines of a sum.
    fn normed_gated(
        &mut self,
        sum: &Self::Matrix,
        norm: &Norm,
        sites: [&Linear; 2],
        activation: Activation,
    ) -> Result<Self::Matrix> {
        let x = self.norm(sum, norm)?;
        self.gated(&x, sites, activation)
    }

    /// `activation(gate) ⊙ up`.
    fn gate(&mut self, gate: Self::Matrix, up: Self::Matrix, activation: Activation) -> Result<Self::Matrix>;

    /// An activation of every number.
    fn activate(&mut self, x: Self::Matrix, activation: Activation) -> Result<Self::Matrix>;

    /// What a decoder answers: of each row that asks, its last line of the sum, normalised; logits by `head`, scores by its
    /// adapter's own.
    fn answer_decoder(self, sum: Self::Matrix, norm: &Norm, head: &Linear) -> Result<Self::Answer>;

    /// What an encoder answers: of each row that asks, its first line, a virtual token's where there are any, by the pooler and
    /// its adapter's head.
    fn answer_encoder(self, sum: Self::Matrix, pooler: &Linear) -> Result<Self::Answer>;
}
