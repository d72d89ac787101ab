//! Tokens as the embedding kernel takes them.

use candle_core::Result;
use repertoire_kernels::cuda::{Dtype, Slice, VirtualTokens};

use crate::adapter::apply::{apply_embedding, copy_virtual};
use crate::adapter::{Adapter, SiteMap};
use crate::device::gpu_error;
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
        // Tokens whose lines are made on the host.
        let mut made: Vec<usize> = Vec::new();
        let mut numbers: Vec<f32> = Vec::new();
        for segment in &batch.segments {
            let Some(adapter) = segment.adapter.as_deref() else { continue };
            let changes = adapter.embedding.is_some() || adapter.positions.is_some();
            let table = residents.get(adapter).and_then(|resident| resident.virtual_tokens.as_ref());
            for token in segment.lines.clone() {
                if changes {
                    if batch.rows[batch.token_rows[token]].follows.is_some() {
                        candle_core::bail!("a token that is made on the host has to be known");
                    }
                    numbers.extend(line(adapter, sites, batch.tokens[token], batch.positions[token])?);
                    ids[token] = (sites.vocab + made.len()) as u32;
                    // Learned positions are in the line; those of a rotary embedding still turn it.
                    if sites.positions.is_some() {
                        positions[token] = NOWHERE;
                    }
                    made.push(token);
                } else if batch.tokens[token] as usize >= sites.vocab {
                    tables.resize(batch.tokens.len(), None);
                    tables[token] = table.cloned();
                }
            }
        }
        if !made.is_empty() {
            let lines = Slice::of(&machine.gpu, Dtype::F32, &numbers).map_err(gpu_error)?;
            tables.resize(batch.tokens.len(), None);
            made.into_iter().for_each(|token| tables[token] = Some(lines.clone()));
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

/// A token's line before the first layer, but for what is added to all tokens.
fn line(adapter: &Adapter, sites: &SiteMap, token: u32, position: u32) -> Result<Vec<f32>> {
    let mut line = vec![0.0; sites.hidden];
    match (token as usize).checked_sub(sites.vocab) {
        None => apply_embedding(token as usize, &sites.embedding.weight, adapter.embedding.as_ref(), &mut line)?,
        Some(index) => copy_virtual(Some(adapter), index, &mut line)?,
    }
    if let Some(positions) = &sites.positions {
        let mut learned = vec![0.0; sites.hidden];
        apply_embedding(position as usize, &positions.weight, adapter.positions.as_ref(), &mut learned)?;
        line.iter_mut().zip(&learned).for_each(|(x, y)| *x += y);
    }
    Ok(line)
}
