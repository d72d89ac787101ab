//! Steps that learn, on the CPU: what a body computes for the lines of one adapter, and the way back.
//!
//! Forward, an operation computes with the kernels that serve, and leaves a record of what its way back needs: nothing where nobody
//! asks for a gradient. Backward, the records are worked off from the last to the first.

mod answer;
mod attention;
mod gradients;
mod linear;
mod record;
mod tracked;

use std::sync::Arc;

use candle_core::Result;
use repertoire_kernels::cpu::{self, Activation, Rotation};

use crate::adapter::{Adapter, KeyValuePrefix};
use crate::device::{Buffer, with_f32, with_floats};
use crate::model::Batch;
use crate::model::layers::{Attention, Embedding, Heads, Linear, Norm};

use super::Ops;
use super::cpu::embed;
use record::Record;

pub use answer::{End, Wanted};
pub use gradients::{Gradients, HeadGradients, PatchGradients};
pub use tracked::Tracked;

/// Operations under way, and their records.
pub struct Tape {
    /// All rows are of one adapter.
    batch: Arc<Batch>,
    /// The angles of its tokens, once a layer asked for them.
    rotation: Option<Arc<Rotation>>,
    /// Whether anybody will ask for the way back.
    records: Option<Vec<Record>>,
    /// Matrices whose gradient is asked for.
    tracked: usize,
}

impl Tape {
    /// Operations that are only computed.
    pub fn forward(batch: &Arc<Batch>) -> Self {
        Self { batch: batch.clone(), rotation: None, records: None, tracked: 0 }
    }

    /// Operations whose way back will be asked for.
    pub fn recording(batch: &Arc<Batch>) -> Self {
        Self { records: Some(Vec::new()), ..Self::forward(batch) }
    }

    /// A matrix [lines, width] that comes from elsewhere, and whether its gradient is asked for.
    pub fn take(&mut self, numbers: Arc<Buffer>, width: usize, wanted: bool) -> Tracked {
        let id = wanted.then(|| self.next()).flatten();
        Tracked { numbers, width, id }
    }

    /// The gradient of the first matrix that was [taken](Self::take), if it was wanted and there is one, from that of `y`. Those of
    /// the adapter's parts are added to `gradients`.
    pub fn back(self, y: &Tracked, d: Buffer, gradients: &mut Gradients) -> Result<Option<Buffer>> {
        let Some(id) = y.id else { return Ok(None) };
        let mut of: Vec<Option<Buffer>> = (0..self.tracked).map(|_| None).collect();
        of[id] = Some(d);
        for record in self.records.into_iter().flatten().rev() {
            record.back(&self.batch, &mut of, gradients)?;
        }
        Ok(of.first_mut().and_then(Option::take))
    }

    /// Bytes that records keep of what was computed.
    pub fn kept_bytes(&self) -> usize {
        self.records.iter().flatten().map(Record::kept_bytes).sum()
    }

    fn adapter(&self) -> Option<&Arc<Adapter>> {
        self.batch.rows.first()?.adapter.as_ref()
    }

    fn prefix(&self) -> Option<&KeyValuePrefix> {
        self.adapter()?.prefix.as_ref()
    }

    /// A number for a matrix whose gradient is asked for.
    fn next(&mut self) -> Option<usize> {
        self.records.as_ref()?;
        self.tracked += 1;
        Some(self.tracked - 1)
    }

    /// A result, whose gradient matters if it does for `inputs`; then `record` says what its way back needs.
    fn result(
        &mut self,
        numbers: Buffer,
        width: usize,
        matters: bool,
        record: impl FnOnce(usize) -> Record,
    ) -> Tracked {
        let id = if matters { self.next() } else { None };
        if let (Some(id), Some(records)) = (id, &mut self.records) {
            records.push(record(id));
        }
        Tracked { numbers: Arc::new(numbers), width, id }
    }

    fn added(&mut self, a: &Tracked, b: &Tracked) -> Tracked {
        let mut sum = copy(a);
        cpu::add(&mut sum, b);
        let (from_a, from_b) = (a.id, b.id);
        let matters = from_a.is_some() || from_b.is_some();
        self.result(sum, a.width, matters, |y| Record::Add { terms: [from_a, from_b], y })
    }

    fn rotated(&mut self, x: &Tracked, rotation: &Arc<Rotation>, head_dim: usize) -> Tracked {
        let mut y = copy(x);
        cpu::rotate(&mut y, rotation, x.lines(), head_dim);
        let (from, rotation) = (x.id, rotation.clone());
        self.result(y, x.width, from.is_some(), |y| Record::Rotate { x: from, rotation, head_dim, y })
    }
}

impl Ops for &mut Tape {
    type Matrix = Tracked;
    type Answer = End;

    fn embed(&mut self, embedding: &Embedding) -> Result<Tracked> {
        let words = embed::embed(embedding.words.on_host(), &self.batch)?;
        let width = words.dims2()?.1;
        let mut x = with_f32(&words, |words| Ok(copy(words)))?;
        if let Some(positions) = &embedding.positions {
            let positions = embed::embed_positions(positions.on_host(), &self.batch)?;
            with_f32(&positions, |positions| {
                cpu::add(&mut x, positions);
                Ok(())
            })?;
        }
        if let Some(row) = &embedding.for_all {
            with_floats(row.on_host(), |row| cpu::add_row(&mut x, row))?;
        }
        let vocab = embedding.words.dims()[0];
        let learned = self.adapter().is_some_and(|adapter| adapter.virtual_tokens.is_some());
        Ok(self.result(x, width, learned, |y| Record::Embed { vocab, y }))
    }

    fn norm(&mut self, x: &Tracked, norm: &Norm) -> Result<Tracked> {
        let mut y = copy(x);
        match norm {
            Norm::Rms { weight, eps } => with_floats(weight.on_host(), |w| cpu::rms_norm(&mut y, w, *eps))?,
            Norm::Layer { weight, bias, eps } => with_floats(weight.on_host(), |w| {
                with_floats(bias.on_host(), |b| cpu::layer_norm(&mut y, w, b, *eps))
            })??,
        }
        Ok(self.result(y, x.width, x.id.is_some(), |y| Record::Norm { x: x.clone(), norm: norm.clone(), y }))
    }

    fn norm_sum(&mut self, sum: Tracked, norm: &Norm) -> Result<Tracked> {
        self.norm(&sum, norm)
    }

    fn linear_group<const N: usize>(&mut self, x: &Tracked, layers: [&Linear; N]) -> Result<[Tracked; N]> {
        let all = layers.iter().map(|layer| linear::linear(self, x, layer)).collect::<Result<Vec<_>>>()?;
        all.try_into().map_err(|_| candle_core::Error::Msg("a group has as many results as layers".into()))
    }

    fn add_linear(&mut self, sum: Tracked, x: &Tracked, layer: &Linear) -> Result<Tracked> {
        let y = linear::linear(self, x, layer)?;
        Ok(self.added(&sum, &y))
    }

    fn split3(&mut self, fused: Tracked) -> Result<[Tracked; 3]> {
        let width = fused.width / 3;
        Ok([0, 1, 2].map(|part| {
            let mut y = Buffer::new(fused.lines() * width);
            for (y, x) in y.chunks_exact_mut(width).zip(fused.chunks_exact(3 * width)) {
                y.copy_from_slice(&x[part * width..][..width]);
            }
            let from = fused.id;
            self.result(y, width, from.is_some(), |y| Record::Third { x: from, part, width, y })
        }))
    }

    fn attend(
        &mut self,
        layer: usize,
        [mut query, mut key, value]: [Tracked; 3],
        attention: Attention<'_>,
    ) -> Result<Tracked> {
        let Attention { heads, norms, rotary } = attention;
        if let Some([query_norm, key_norm]) = norms {
            query = self.norm(&query, query_norm)?;
            key = self.norm(&key, key_norm)?;
        }
        if let Some(inverse_frequencies) = rotary {
            let rotation = match &self.rotation {
                Some(rotation) => rotation.clone(),
                None => Arc::new(with_f32(inverse_frequencies.on_host(), |inverse| {
                    Ok(Rotation::new(&self.batch.positions, inverse))
                })?),
            };
            query = self.rotated(&query, &rotation, heads.head_dim);
            key = self.rotated(&key, &rotation, heads.head_dim);
            self.rotation = Some(rotation);
        }
        attention::attend(self, layer, [query, key, value], heads, true)
    }

    fn attend_both_ways(&mut self, layer: usize, queries_keys_values: [Tracked; 3], heads: Heads) -> Result<Tracked> {
        attention::attend(self, layer, queries_keys_values, heads, false)
    }

    fn gate(&mut self, gate: Tracked, up: Tracked, activation: Activation) -> Result<Tracked> {
        let mut y = copy(&gate);
        cpu::gate(&mut y, &up, activation);
        let (width, matters) = (gate.width, gate.id.is_some() || up.id.is_some());
        Ok(self.result(y, width, matters, |y| Record::Gate { gate, up, activation, y }))
    }

    fn activate(&mut self, x: Tracked, activation: Activation) -> Result<Tracked> {
        let mut y = copy(&x);
        cpu::activate(&mut y, activation);
        Ok(self.result(y, x.width, x.id.is_some(), |y| Record::Activate { x, activation, y }))
    }

    fn answer_decoder(self, sum: Tracked, norm: &Norm, head: &Linear) -> Result<End> {
        Ok(End::Decoder { sum, norm: norm.clone(), head: head.clone() })
    }

    fn answer_encoder(self, sum: Tracked, pooler: &Linear) -> Result<End> {
        Ok(End::Encoder { sum, pooler: pooler.clone() })
    }
}

fn copy(x: &[f32]) -> Buffer {
    let mut y = Buffer::new(x.len());
    y.copy_from_slice(x);
    y
}
