//! Steps on the CPU: f32 throughout, on the threads of the compute pool.

pub(super) mod attention;
mod elementwise;
pub(super) mod embed;
mod linear;
mod outputs;
mod store;

use std::sync::Arc;

use candle_core::Result;
use repertoire_kernels::cpu::{Activation, Rotation};

use crate::adapter::{Adapter, SiteMap};
use crate::device::{Activations, compute, with_f32};
use crate::model::batch::segments;
use crate::model::layers::{Attention, Embedding, Heads, Linear, Norm};
use crate::model::{BaseModel, Batch, BlockId, Body, Called, Held, KvShape, Output, Outputs, Pass, Warm};

use super::Ops;
use elementwise::{activate, add, add_row, gate, norm, rotate};
use store::KvStore;

/// A base that computes on the CPU.
pub struct CpuModel {
    body: Body,
    /// Absent until it is opened, and for encoders, which keep nothing.
    store: Option<KvStore>,
    /// Of the step that began, until somebody asks for them.
    outputs: Option<Outputs>,
}

impl CpuModel {
    /// A base without a store.
    pub fn new(body: Body) -> Self {
        Self { body, store: None, outputs: None }
    }
}

impl BaseModel for CpuModel {
    fn sites(&self) -> &Arc<SiteMap> {
        self.body.sites()
    }

    fn kv_shape(&self) -> Option<KvShape> {
        self.body.kv_shape(size_of::<f32>())
    }

    fn step_bytes(&self, _: usize, _: usize) -> usize {
        0
    }

    fn open_store(&mut self, blocks: usize) -> Result<()> {
        self.store = self.kv_shape().map(|shape| KvStore::new(shape, blocks)).transpose()?;
        Ok(())
    }

    fn warm_up(&mut self, _: usize, _: usize) -> Result<Option<Warm>> {
        Ok(None)
    }

    fn draws(&self) -> bool {
        false
    }

    fn call(&mut self, _: &Arc<Adapter>) -> Result<Called> {
        Ok(Called::Here(Held::default()))
    }

    fn copy_blocks(&mut self, copies: &[(BlockId, BlockId)]) -> Result<()> {
        match &mut self.store {
            Some(store) if !copies.is_empty() => store.copy_blocks(copies),
            _ => Ok(()),
        }
    }

    fn write_prefix(&mut self, adapter: &Arc<Adapter>, blocks: &[BlockId], from: usize) -> Result<()> {
        match (&mut self.store, &adapter.prefix) {
            (Some(store), Some(prefix)) => store.write_prefix(prefix, blocks, from),
            _ => Ok(()),
        }
    }

    fn follows(&self, _: Option<&Adapter>) -> bool {
        false
    }

    fn advance(&mut self, pass: &mut Pass) -> Result<()> {
        compute(|| pass.advance(&self.body))
    }

    fn begin(&mut self, batch: Batch) -> Result<()> {
        let Self { body, store, outputs } = self;
        let step = Step { batch: &batch, store: store.as_mut(), rotation: None };
        *outputs = Some(compute(|| body.forward(step))?);
        Ok(())
    }

    fn finish(&mut self) -> Result<Outputs> {
        self.outputs.take().ok_or_else(|| candle_core::Error::Msg("no step has begun".into()))
    }
}

/// A batch under way.
struct Step<'a> {
    batch: &'a Batch,
    store: Option<&'a mut KvStore>,
    /// The angles of this step's tokens, once a layer asked for them.
    rotation: Option<Rotation>,
}

impl Ops for Step<'_> {
    type Matrix = Activations;
    type Answer = Outputs;

    fn embed(&mut self, embedding: &Embedding) -> Result<Activations> {
        let mut x = embed::embed(embedding.words.on_host(), self.batch)?;
        if let Some(positions) = &embedding.positions {
            x = add(x, &embed::embed_positions(positions.on_host(), self.batch)?)?;
        }
        match &embedding.for_all {
            Some(row) => add_row(x, row.on_host()),
            None => Ok(x),
        }
    }

    fn norm(&mut self, sum: &Activations, by: &Norm) -> Result<Activations> {
        norm(sum, by)
    }

    fn norm_sum(&mut self, sum: Activations, by: &Norm) -> Result<Activations> {
        norm(&sum, by)
    }

    fn linear_group<const N: usize>(&mut self, x: &Activations, layers: [&Linear; N]) -> Result<[Activations; N]> {
        linear::linear_group(x, layers, &self.batch.segments)
    }

    fn add_linear(&mut self, sum: Activations, x: &Activations, layer: &Linear) -> Result<Activations> {
        add(sum, &self.linear(x, layer)?)
    }

    fn split3(&mut self, fused: Activations) -> Result<[Activations; 3]> {
        outputs::split3(&fused)
    }

    fn attend(
        &mut self,
        layer: usize,
        [mut query, mut key, value]: [Activations; 3],
        attention: Attention<'_>,
    ) -> Result<Activations> {
        let Some(store) = &mut self.store else {
            candle_core::bail!("a decoder has no store of keys and values yet");
        };
        let Attention { heads, norms, rotary } = attention;
        if let Some([query_norm, key_norm]) = norms {
            query = norm(&query, query_norm)?;
            key = norm(&key, key_norm)?;
        }
        if let Some(inverse_frequencies) = rotary {
            let rotation = match self.rotation.take() {
                Some(rotation) => rotation,
                None => with_f32(inverse_frequencies.on_host(), |inverse| {
                    Ok(Rotation::new(&self.batch.positions, inverse))
                })?,
            };
            query = rotate(query, &rotation, heads.head_dim)?;
            key = rotate(key, &rotation, heads.head_dim)?;
            self.rotation = Some(rotation);
        }
        attention::write_kv(&key, &value, layer, self.batch, store)?;
        attention::attend_cached(&query, layer, heads, self.batch, store)
    }

    fn attend_both_ways(
        &mut self,
        layer: usize,
        [query, key, value]: [Activations; 3],
        heads: Heads,
    ) -> Result<Activations> {
        attention::attend_both_ways(&query, &key, &value, layer, heads, self.batch)
    }

    fn gate(&mut self, gated: Activations, up: Activations, activation: Activation) -> Result<Activations> {
        gate(gated, &up, activation)
    }

    fn activate(&mut self, x: Activations, activation: Activation) -> Result<Activations> {
        activate(x, activation)
    }

    fn answer_decoder(self, sum: Activations, by: &Norm, head: &Linear) -> Result<Outputs> {
        outputs::decoder_outputs(&sum, by, head, self.batch)
    }

    fn answer_encoder(self, sum: Activations, pooler: &Linear) -> Result<Outputs> {
        let firsts: Vec<usize> = self.batch.rows_that_want(Output::Scores).map(|row| row.tokens.start).collect();
        if firsts.is_empty() {
            return Ok(Outputs::default());
        }
        let segments = segments(self.batch.rows_that_want(Output::Scores));
        let [pooled] = linear::linear_group(&outputs::lookup(&sum, &firsts)?, [pooler], &segments)?;
        let pooled = activate(pooled, Activation::Tanh)?; // [rows that want scores, hidden]
        Ok(Outputs { scores: linear::head_scores(&pooled, self.batch)?, ..Outputs::default() })
    }
}
