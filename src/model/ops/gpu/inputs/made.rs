//! Tokens as the embedding kernel takes them.

use candle_core::Result;
use repertoire_kernels::cuda::{Dtype, GpuError, Slice, VirtualTokens, gather};

use crate::adapter::apply::{apply_embedding, copy_virtual};
use crate::adapter::{Adapter, SiteMap};
use crate::device::{Weight, gpu_error};
use crate::model::Batch;

use super::NOWHERE;
use crate::model::ops::gpu::machine::Machine;
use crate::model::ops::gpu::residents::Residents;

/// Ids, positions, and what virtual tokens are. A token whose adapter changes the embedding or the positions is made on the host
/// and becomes a virtual token: such adapters are rare, and a line of numbers is soon brought over.
pub struct Tokens {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    /// Per token; none at all if no token is virtual.
    tables: Vec<Option<Slice>>,
}

impl Tokens {
    /// Looks at every token of a batch.
    pub fn new(machine: &Machine, residents: &Residents, sites: &SiteMap, batch: &Batch) -> Result<Self> {
        let (mut ids, mut positions) = (batch.tokens.clone(), batch.positions.clone());
        let mut tables: Vec<Option<Slice>> = Vec::new();
        // Tokens whose lines are made on the host, and whose they are.
        let mut made: Vec<(usize, &Adapter)> = Vec::new();
        for segment in &batch.segments {
            let Some(adapter) = segment.adapter.as_deref() else { continue };
            let changes = adapter.embedding.is_some() || adapter.positions.is_some();
            let table = residents.get(adapter).and_then(|resident| resident.virtual_tokens.as_ref());
            for token in segment.lines.clone() {
                if changes {
                    if batch.rows[batch.token_rows[token]].follows.is_some() {
                        candle_core::bail!("a token that is made on the host has to be known");
                    }
                    ids[token] = (sites.vocab + made.len()) as u32;
                    // Learned positions are in the line; those of a rotary embedding still turn it.
                    if sites.positions.is_some() {
                        positions[token] = NOWHERE;
                    }
                    made.push((token, adapter));
                } else if batch.tokens[token] as usize >= sites.vocab {
                    tables.resize(batch.tokens.len(), None);
                    tables[token] = table.cloned();
                }
            }
        }
        if !made.is_empty() {
            let lines =
                Slice::of(&machine.gpu, Dtype::F32, &lines(machine, sites, batch, &made)?).map_err(gpu_error)?;
            tables.resize(batch.tokens.len(), None);
            made.into_iter().for_each(|(token, _)| tables[token] = Some(lines.clone()));
        }
        Ok(Self { ids, positions, tables })
    }

    /// The virtual tokens of the batch, if there are any.
    pub fn virtual_tokens(&self, machine: &Machine, hidden: usize) -> Result<Option<VirtualTokens>> {
        if self.tables.is_empty() {
            return Ok(None);
        }
        let mut on_gpu = VirtualTokens::new(&machine.gpu, self.tables.len(), hidden).map_err(gpu_error)?;
        self.write(&mut on_gpu)?;
        Ok(Some(on_gpu))
    }

    /// Whether some token is virtual.
    pub fn any_virtual(&self) -> bool {
        !self.tables.is_empty()
    }

    /// Writes what virtual tokens are.
    pub fn write(&self, on_gpu: &mut VirtualTokens) -> Result<()> {
        let tables: Vec<Option<&Slice>> = self.tables.iter().map(Option::as_ref).collect();
        on_gpu.write(&tables).map_err(gpu_error)
    }
}

/// The lines of some tokens before the first layer [tokens, hidden], but for what is added to all tokens.
fn lines(machine: &Machine, sites: &SiteMap, batch: &Batch, made: &[(usize, &Adapter)]) -> Result<Vec<f32>> {
    let of = |all: &[u32]| made.iter().map(|&(token, _)| all[token]).collect::<Vec<_>>();
    let (ids, positions) = (of(&batch.tokens), of(&batch.positions));
    let mut lines = read(machine, &sites.embedding.weight, &ids)?;
    let learned = sites.positions.as_ref().map(|site| read(machine, &site.weight, &positions)).transpose()?;
    let learned = learned.unwrap_or_else(|| vec![0.0; lines.len()]);
    let each = lines.chunks_exact_mut(sites.hidden).zip(learned.chunks_exact(sites.hidden)).zip(made);
    for (((line, learned), (_, adapter)), (&id, &position)) in each.zip(ids.iter().zip(&positions)) {
        match (id as usize).checked_sub(sites.vocab) {
            None => adapter.embedding.iter().try_for_each(|patch| apply_embedding(id as usize, patch, line))?,
            Some(index) => copy_virtual(Some(adapter), index, line)?,
        }
        let mut learned = learned.to_vec();
        adapter.positions.iter().try_for_each(|patch| apply_embedding(position as usize, patch, &mut learned))?;
        line.iter_mut().zip(&learned).for_each(|(x, y)| *x += y);
    }
    Ok(lines)
}

/// Some rows of a weight on the GPU; waits for it. Of rows that it does not have, whatever.
fn read(machine: &Machine, weight: &Weight, rows: &[u32]) -> Result<Vec<f32>> {
    let width = weight.dims()[1];
    let wanted = || -> std::result::Result<Vec<f32>, GpuError> {
        let to = Slice::new(&machine.gpu, weight.on_gpu().dtype(), rows.len() * width)?;
        gather(&machine.gpu, weight.on_gpu(), &Slice::of_u32(&machine.gpu, rows)?, width, &to)?;
        to.to_f32()
    };
    wanted().map_err(gpu_error)
}
