//! A step on a GPU: launches, one after the other.

mod answer;
mod linear;

use candle_core::{Error, Result};
use repertoire_kernels::cpu::Activation;
use repertoire_kernels::cuda::{
    self, Back, Decode, Dtype, GpuError, KeyValues, MOST_SPLITS, Rotary, activate, add_norm, attend_decode,
    attend_prefill, decode_scratch_len, gate, rotate_store,
};

use crate::model::layers::{Attention, Embedding, Heads, Linear, Norm};
use crate::model::ops::Ops;

use super::arena::Memory;
use super::inputs::{Inputs, Rows};
use super::machine::Machine;
use super::matrix::{Matrix, Part};
use super::residents::Residents;

pub use answer::{Answer, Answered, Choices};

/// A batch under way.
pub struct Step<'a> {
    pub machine: &'a Machine,
    pub residents: &'a Residents,
    pub inputs: &'a Inputs,
    /// Where choices of tokens go, and those of the step before are until then.
    pub choices: &'a Choices,
}

impl Step<'_> {
    fn lines(&self) -> usize {
        self.inputs.tokens.count
    }

    /// A matrix of this step.
    fn take(&self, dtype: Dtype, lines: usize, width: usize) -> Result<Part> {
        Ok(Part::whole(self.memory(dtype, lines * width)?, width))
    }

    fn memory(&self, dtype: Dtype, len: usize) -> Result<Memory> {
        self.machine.arena.take(dtype, len).map_err(gpu)
    }

    fn activations(&self, width: usize) -> Result<Part> {
        self.take(self.machine.dtype, self.lines(), width)
    }
}

/// A GPU's error as those of tensors are told.
fn gpu(error: GpuError) -> Error {
    crate::device::gpu_error(error)
}

fn of(norm: &Norm) -> cuda::Norm<'_> {
    match norm {
        Norm::Rms { weight, eps } => cuda::Norm::Rms { weight: weight.on_gpu(), eps: *eps },
        Norm::Layer { weight, bias, eps } => {
            cuda::Norm::Layer { weight: weight.on_gpu(), bias: bias.on_gpu(), eps: *eps }
        }
    }
}

fn heads_of(heads: Heads) -> cuda::Heads {
    let Heads { heads, kv_heads, head_dim } = heads;
    cuda::Heads { heads, kv_heads, head_dim }
}

fn scale(heads: Heads) -> f32 {
    1.0 / (heads.head_dim as f32).sqrt()
}

impl Ops for Step<'_> {
    type Matrix = Matrix;
    type Answer = Answer;

    fn embed(&mut self, embedding: &Embedding) -> Result<Matrix> {
        let hidden = embedding.words.dims()[1];
        let sum = self.take(Dtype::F32, self.lines(), hidden)?;
        let Inputs { ids, follows, positions, virtual_tokens, .. } = self.inputs;
        let choices = &self.choices.tokens;
        let chosen = follows.as_ref().map(|which| cuda::Chosen { which, choices });
        let embedding = cuda::Embedding {
            table: embedding.words.on_gpu(),
            positions: embedding.positions.as_ref().map(|table| (table.on_gpu(), positions)),
            for_all: embedding.for_all.as_ref().map(|row| row.on_gpu()),
        };
        let virtual_tokens = virtual_tokens.as_ref();
        cuda::embed(&self.machine.gpu, ids, chosen, embedding, virtual_tokens, hidden, sum.slice()).map_err(gpu)?;
        Ok(Matrix::of_sum(sum))
    }

    fn norm(&mut self, sum: &Matrix, norm: &Norm) -> Result<Matrix> {
        let sum = sum.sum();
        let out = self.activations(sum.width())?;
        cuda::norm(&self.machine.gpu, sum.matrix(), of(norm), out.matrix()).map_err(gpu)?;
        Ok(Matrix::of_activations(out))
    }

    fn norm_sum(&mut self, sum: Matrix, norm: &Norm) -> Result<Matrix> {
        let sum = sum.into_sum();
        let out = self.activations(sum.width())?;
        add_norm(&self.machine.gpu, sum.matrix(), None, of(norm), Back::Normed, out.matrix()).map_err(gpu)?;
        Ok(Matrix::of_both(sum, out))
    }

    fn linear_group<const N: usize>(&mut self, x: &Matrix, layers: [&Linear; N]) -> Result<[Matrix; N]> {
        let x = x.activations().into();
        let parts = self.group(&x, layers, &self.inputs.tokens, self.machine.dtype)?;
        Ok(parts.map(Matrix::of_activations))
    }

    fn normed_group<const N: usize>(&mut self, sum: &Matrix, norm: &Norm, layers: [&Linear; N]) -> Result<[Matrix; N]> {
        let x = self.normed_for(sum.sum(), norm, layers)?;
        let parts = self.group(&x, layers, &self.inputs.tokens, self.machine.dtype)?;
        Ok(parts.map(Matrix::of_activations))
    }

    fn add_linear(&mut self, sum: Matrix, x: &Matrix, layer: &Linear) -> Result<Matrix> {
        let sum = sum.into_sum();
        self.add(&sum, &x.activations().into(), layer, layer.bias.as_ref(), &self.inputs.tokens)?;
        Ok(Matrix::of_sum(sum))
    }

    fn add_linear_norm(&mut self, sum: Matrix, x: &Matrix, layer: &Linear, norm: &Norm) -> Result<Matrix> {
        let (sum, lines) = (sum.into_sum(), &self.inputs.tokens);
        // Where only the norm that reads the sum adds the bias without reading all of it once more.
        let later =
            layer.bias.as_ref().filter(|_| self.machine.leaves_biases(lines.count) && !self.adapts(layer, lines));
        let at_once = layer.bias.as_ref().filter(|_| later.is_none());
        self.add(&sum, &x.activations().into(), layer, at_once, lines)?;
        let out = self.activations(sum.width())?;
        let added = later.map(|bias| cuda::Matrix::repeated(bias.on_gpu(), lines.count));
        add_norm(&self.machine.gpu, sum.matrix(), added, of(norm), Back::Normed, out.matrix()).map_err(gpu)?;
        Ok(Matrix::of_both(sum, out))
    }

    fn split3(&mut self, fused: Matrix) -> Result<[Matrix; 3]> {
        let fused = fused.activations();
        let width = fused.width() / 3;
        Ok([0, 1, 2].map(|third| Matrix::of_activations(fused.columns(third * width..(third + 1) * width))))
    }

    fn attend(&mut self, layer: usize, qkv: [Matrix; 3], attention: Attention<'_>) -> Result<Matrix> {
        let Some(store) = &self.machine.store else {
            candle_core::bail!("a decoder has no store of keys and values yet");
        };
        let Attention { heads, norms, rotary } = attention;
        let (device, layer) = (&self.machine.gpu, store.layer(layer));
        let [query, key, value] = qkv.each_ref().map(|x| x.activations().matrix());
        if let Some([query_norm, key_norm]) = norms {
            cuda::norm(device, query, of(query_norm), query).map_err(gpu)?;
            cuda::norm(device, key, of(key_norm), key).map_err(gpu)?;
        }
        let rotary =
            rotary.map(|inverse| Rotary { positions: &self.inputs.positions, inverse_frequencies: inverse.on_gpu() });
        let out = self.activations(heads.heads * heads.head_dim)?;
        let on_gpu = heads_of(heads);
        match &self.inputs.rows {
            Rows::Decode { store, before, lengths, table, max_blocks, short, counters } => {
                if before.is_some() {
                    rotate_store(device, query, key, value, on_gpu, rotary, Some((&layer, store))).map_err(gpu)?;
                }
                let (slots, rotary) = before.as_ref().map_or((store, rotary), |nowhere| (nowhere, None));
                let splits = self.splits(heads, *short);
                let scratch = decode_scratch_len(self.lines(), splits, on_gpu);
                let scratch = (scratch > 0).then(|| self.memory(Dtype::F32, scratch)).transpose()?;
                let scratch = scratch.as_ref().map(Memory::slice);
                let step = Decode {
                    query,
                    key,
                    value,
                    rotary,
                    slots,
                    lengths,
                    table,
                    max_blocks: *max_blocks,
                    splits,
                    scratch,
                    counters,
                    ahead: None,
                };
                attend_decode(device, on_gpu, &layer, step, scale(heads), out.slice()).map_err(gpu)?;
            }
            Rows::Prefill { store, rows, table, max_blocks } => {
                rotate_store(device, query, key, value, on_gpu, rotary, Some((&layer, store))).map_err(gpu)?;
                let paged = KeyValues::Paged { layer: &layer, table, max_blocks: *max_blocks };
                attend_prefill(device, query, on_gpu, paged, rows, scale(heads), out.slice()).map_err(gpu)?;
            }
            Rows::BothWays { .. } => candle_core::bail!("an encoder's rows are given to a decoder"),
        }
        Ok(Matrix::of_activations(out))
    }

    fn attend_both_ways(&mut self, layer: usize, qkv: [Matrix; 3], heads: Heads) -> Result<Matrix> {
        let Rows::BothWays { rows, adapters } = &self.inputs.rows else {
            candle_core::bail!("a decoder's rows are given to an encoder");
        };
        let [query, keys, values] = qkv.each_ref().map(|x| x.activations().matrix());
        let prefix = |adapter: &Option<_>| {
            let adapter: &std::sync::Arc<crate::adapter::Adapter> = adapter.as_ref()?;
            let (keys, values) = self.residents.get(adapter)?.prefix.get(layer)?;
            Some((keys, values))
        };
        let prefixes: Vec<_> = adapters.iter().map(prefix).collect();
        let out = self.activations(heads.heads * heads.head_dim)?;
        let both = KeyValues::BothWays { keys, values, prefixes: &prefixes };
        let device = &self.machine.gpu;
        attend_prefill(device, query, heads_of(heads), both, rows, scale(heads), out.slice()).map_err(gpu)?;
        Ok(Matrix::of_activations(out))
    }

    fn gated(&mut self, x: &Matrix, sites: [&Linear; 2], activation: Activation) -> Result<Matrix> {
        Ok(Matrix::of_activations(self.gated_of(&x.activations().into(), sites, activation)?))
    }

    fn normed_gated(
        &mut self,
        sum: &Matrix,
        norm: &Norm,
        sites: [&Linear; 2],
        activation: Activation,
    ) -> Result<Matrix> {
        let x = self.normed_for(sum.sum(), norm, sites)?;
        Ok(Matrix::of_activations(self.gated_of(&x, sites, activation)?))
    }

    fn gate(&mut self, gated: Matrix, up: Matrix, activation: Activation) -> Result<Matrix> {
        let (gated, up) = (gated.activations(), up.activations());
        let out = self.activations(gated.width())?;
        gate(&self.machine.gpu, gated.matrix(), up.matrix(), activation, out.matrix()).map_err(gpu)?;
        Ok(Matrix::of_activations(out))
    }

    fn activate(&mut self, x: Matrix, activation: Activation) -> Result<Matrix> {
        activate(&self.machine.gpu, x.activations().matrix(), activation).map_err(gpu)?;
        Ok(x)
    }

    fn answer_decoder(self, sum: Matrix, norm: &Norm, head: &Linear) -> Result<Answer> {
        self.decoder(sum.sum(), norm, head)
    }

    fn answer_encoder(self, sum: Matrix, pooler: &Linear) -> Result<Answer> {
        self.encoder(sum.activations(), pooler)
    }
}

impl Step<'_> {
    /// In how many parts each row's context is attended to: as many as keep the GPU busy. Putting the parts of short rows together
    /// takes longer than it saves.
    fn splits(&self, heads: Heads, short: bool) -> usize {
        let blocks = self.lines() * heads.kv_heads;
        let wanted = self.machine.gpu.multiprocessors() as usize / blocks.max(1);
        if short { 1 } else { wanted.clamp(1, MOST_SPLITS) }
    }
}
