//! Token embeddings: the base's rows, adapters' changes to them, and virtual tokens.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::adapter::EmbeddingPatch;
use crate::adapter::apply::{apply_embedding, copy_virtual};
use crate::device::{Activations, Buffer, with_floats};
use crate::model::Batch;
use crate::profile::{self, Part};

/// [tokens, hidden] f32. `table` is [vocab, hidden]; id `vocab + i` is virtual token `i` of the row's adapter.
pub fn embed(table: &Tensor, batch: &Batch) -> Result<Activations> {
    let _timer = profile::time(Part::Embed);
    table.apply_op1_no_bwd(&Gather { table, batch }).map(Activations::from)
}

struct Gather<'a> {
    table: &'a Tensor,
    batch: &'a Batch,
}

impl CustomOp1 for Gather<'_> {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let (vocab, hidden) = self.table.dims2()?;
        let mut out = Buffer::new(self.batch.tokens.len() * hidden);
        for segment in &self.batch.segments {
            let adapter = segment.adapter.as_deref();
            let tokens = &self.batch.tokens[segment.lines.clone()];
            let lines = out[segment.lines.start * hidden..segment.lines.end * hidden].chunks_exact_mut(hidden);
            for (&token, out) in tokens.iter().zip(lines) {
                match (token as usize).checked_sub(vocab) {
                    None => {
                        let patch = adapter.and_then(|adapter| adapter.embedding.as_ref());
                        line(self.table, token as usize, patch, out)?;
                    }
                    Some(index) => copy_virtual(adapter, index, out)?,
                }
            }
        }
        Ok((CpuStorage::F32(out.into_vec()), Shape::from((self.batch.tokens.len(), hidden))))
    }
}

/// [tokens, hidden] f32 of learned positions `table` [context, hidden].
pub fn embed_positions(table: &Tensor, batch: &Batch) -> Result<Activations> {
    let _timer = profile::time(Part::Embed);
    table.apply_op1_no_bwd(&GatherPositions { table, batch }).map(Activations::from)
}

struct GatherPositions<'a> {
    table: &'a Tensor,
    batch: &'a Batch,
}

impl CustomOp1 for GatherPositions<'_> {
    fn name(&self) -> &'static str {
        "embed-positions"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let (context, hidden) = self.table.dims2()?;
        let mut out = Buffer::new(self.batch.tokens.len() * hidden);
        for segment in &self.batch.segments {
            let patch = segment.adapter.as_ref().and_then(|adapter| adapter.positions.as_ref());
            let lines = out[segment.lines.start * hidden..segment.lines.end * hidden].chunks_exact_mut(hidden);
            for (&position, out) in self.batch.positions[segment.lines.clone()].iter().zip(lines) {
                if position as usize >= context {
                    candle_core::bail!("position {position} of {context}");
                }
                line(self.table, position as usize, patch, out)?;
            }
        }
        Ok((CpuStorage::F32(out.into_vec()), Shape::from((self.batch.tokens.len(), hidden))))
    }
}

/// A row of a table, changed by an adapter's patch where there is one.
fn line(table: &Tensor, index: usize, patch: Option<&EmbeddingPatch>, out: &mut [f32]) -> Result<()> {
    let width = out.len();
    with_floats(table, |table| table.row(index, width).copy_to(out))?;
    patch.map_or(Ok(()), |patch| apply_embedding(index, patch, out))
}
