//! Adapters on a GPU: each in a slot of the tables that kernels look into.

mod upload;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use repertoire_kernels::cuda::{Dtype, Gpu, GpuError, LowRank, MOST_RANK, SitePatch, Slice, Table};

use crate::adapter::{Adapter, Digest, SiteId, SiteMap};
use crate::device::Placement;

use super::groups::groups;
use upload::Upload;

/// Slots of a table, the empty one included: adapters that can be on the GPU at once.
const SLOTS: usize = 513;
/// The least room that tables have for ranks.
const LEAST_RANK: usize = 16;

/// The adapters of one base that are on the GPU, and room for more.
pub struct Residents {
    gpu: Arc<Gpu>,
    dtype: Dtype,
    sites: Arc<SiteMap>,
    /// The group of each site.
    groups: Vec<Range<usize>>,
    /// By site; a group has tables from the first adapter on that changes one of its sites.
    tables: Vec<Option<SiteTable>>,
    /// Heads are low-rank patches of which only the first half is computed.
    heads: Option<Table>,
    /// By slot; 0 is nobody's.
    slots: Vec<Option<Resident>>,
    by_digest: HashMap<Digest, usize>,
    /// Bytes that adapters take, and may take.
    bytes: usize,
    most_bytes: usize,
    clock: u64,
    shape: u64,
}

/// A site's patches.
pub struct SiteTable {
    pub table: Table,
    /// Whether some adapter scaled the site's inputs since the server started.
    pub rescales_inputs: bool,
}

/// An adapter on the GPU.
pub struct Resident {
    pub slot: u32,
    pub virtual_tokens: Option<Slice>,
    /// Per layer, keys and values [count, kv_heads · head_dim], of the base's dtype.
    pub prefix: Vec<(Slice, Slice)>,
    /// Weights in place of the base's, of its dtype.
    pub weights: HashMap<SiteId, Slice>,
    digest: Digest,
    /// Where it has patches.
    patched: Vec<usize>,
    bytes: usize,
    last_used: u64,
}

impl Residents {
    /// Nobody.
    pub fn new(placement: &Placement, sites: Arc<SiteMap>) -> Self {
        let mut by_site = vec![0..0; sites.linears.len()];
        for group in groups(&sites) {
            by_site[group.clone()].fill(group);
        }
        Self {
            gpu: placement.target.gpu.clone(),
            dtype: placement.dtype,
            tables: sites.linears.iter().map(|_| None).collect(),
            groups: by_site,
            sites,
            heads: None,
            slots: (0..SLOTS).map(|_| None).collect(),
            by_digest: HashMap::new(),
            bytes: 0,
            most_bytes: placement.target.adapter_bytes,
            clock: 0,
            shape: 0,
        }
    }

    /// Changes whenever launches of a step with adapters would no longer be the same: sites that were never changed before,
    /// or ranks higher than all before.
    pub fn shape(&self) -> u64 {
        self.shape
    }

    /// The table of a site, if an adapter ever changed its group.
    pub fn table(&self, site: SiteId) -> Option<&SiteTable> {
        self.tables[site.0].as_ref()
    }

    /// The heads' table, if an adapter ever had one.
    pub fn heads(&self) -> Option<&Table> {
        self.heads.as_ref()
    }

    /// Where an adapter is.
    pub fn get(&self, adapter: &Adapter) -> Option<&Resident> {
        self.slots[*self.by_digest.get(&adapter.digest)?].as_ref()
    }

    /// Brings the adapters of a step to the GPU. Those used longest ago make room, but none of the step's.
    pub fn admit<'a>(&mut self, adapters: impl Iterator<Item = &'a Arc<Adapter>>) -> candle_core::Result<()> {
        self.clock += 1;
        let mut missing: Vec<&Arc<Adapter>> = Vec::new();
        for adapter in adapters {
            match self.by_digest.get(&adapter.digest) {
                Some(&slot) => {
                    if let Some(resident) = &mut self.slots[slot] {
                        resident.last_used = self.clock;
                    }
                }
                None if missing.iter().any(|other| other.digest == adapter.digest) => {}
                None => missing.push(adapter),
            }
        }
        missing.into_iter().try_for_each(|adapter| self.bring(adapter))
    }

    fn bring(&mut self, adapter: &Adapter) -> candle_core::Result<()> {
        let upload = Upload::of(adapter, self.dtype)?;
        let bytes = upload.bytes();
        while self.bytes + bytes > self.most_bytes && self.evict() {}
        let free = |slots: &[Option<Resident>]| slots.iter().skip(1).position(Option::is_none).map(|at| at + 1);
        let slot = match free(&self.slots) {
            Some(slot) => slot,
            None if self.evict() => free(&self.slots).unwrap_or(1),
            None => candle_core::bail!("a step has more adapters than the {} a GPU holds at once", SLOTS - 1),
        };
        let memory = loop {
            match upload.write(&self.gpu) {
                Err(GpuError::OutOfMemory { .. }) if self.evict() => {}
                memory => break memory.map_err(crate::device::gpu_error)?,
            }
        };
        self.place(adapter, slot, &upload, memory).map_err(crate::device::gpu_error)
    }

    /// Takes the adapter that was used longest ago from the GPU; not one of this step.
    fn evict(&mut self) -> bool {
        let unused = self.slots.iter().enumerate().filter_map(|(slot, resident)| {
            let resident = resident.as_ref().filter(|resident| resident.last_used < self.clock)?;
            Some((resident.last_used, slot))
        });
        let Some((_, slot)) = unused.min() else { return false };
        if let Some(resident) = self.slots[slot].take() {
            self.by_digest.remove(&resident.digest);
            self.bytes -= resident.bytes;
            // Whatever the tables still say of the slot is read by nobody, and written over by whoever gets it.
            for site in resident.patched {
                let cleared = self.tables[site].as_mut().map(|site| site.table.set(slot, SitePatch::default()));
                if let Some(Err(error)) = cleared {
                    tracing::warn!(%error, "a slot could not be cleared");
                }
            }
        }
        true
    }

    fn place(&mut self, adapter: &Adapter, slot: usize, upload: &Upload, memory: Slice) -> Result<(), GpuError> {
        let mut patched = Vec::new();
        let mut weights = HashMap::new();
        for (site, patch) in adapter.patches.iter().enumerate() {
            let Some(patch) = patch else { continue };
            let part = |tensor: &Tensor| upload.part(&memory, tensor);
            if let Some(weight) = &patch.weight {
                weights.insert(SiteId(site), part(weight));
            }
            let row = |tensor: &Option<Tensor>| tensor.as_ref().map(part);
            let on_gpu = SitePatch {
                low_rank: patch.low_rank.as_ref().map(|low_rank| LowRank {
                    a: part(&low_rank.a),
                    b: part(&low_rank.b),
                    rank: low_rank.a.dims()[0],
                    scale: low_rank.scale,
                }),
                scale: row(&patch.output_scale),
                rescale: row(&patch.rescale_output),
                rescale_in: row(&patch.rescale_input),
                bias: row(&patch.bias),
            };
            let rank = on_gpu.low_rank.as_ref().map_or(0, |low_rank| low_rank.rank);
            let rescales = on_gpu.rescale_in.is_some();
            self.open_tables(site, rank, rescales)?;
            if let Some(site) = &mut self.tables[site] {
                site.table.set(slot, on_gpu)?;
            }
            patched.push(site);
        }
        if let Some(head) = &adapter.head {
            let labels = head.weight.dims()[0];
            if labels <= MOST_RANK {
                self.open_heads(labels)?;
                let a = upload.part(&memory, &head.weight);
                // The second half is never computed: the first numbers of the first serve.
                let b = a.part(0..labels);
                let low_rank = Some(LowRank { a, b, rank: labels, scale: 1.0 });
                if let Some(heads) = &mut self.heads {
                    heads.set(slot, SitePatch { low_rank, ..SitePatch::default() })?;
                }
            }
        }
        let prefix = adapter.prefix.iter().flat_map(|prefix| prefix.keys.iter().zip(&prefix.values));
        let bytes = upload.bytes();
        self.slots[slot] = Some(Resident {
            slot: slot as u32,
            virtual_tokens: adapter.virtual_tokens.as_ref().map(|v| upload.part(&memory, &v.embeddings)),
            prefix: prefix.map(|(keys, values)| (upload.part(&memory, keys), upload.part(&memory, values))).collect(),
            weights,
            digest: adapter.digest,
            patched,
            bytes,
            last_used: self.clock,
        });
        self.by_digest.insert(adapter.digest, slot);
        self.bytes += bytes;
        Ok(())
    }

    /// Sees that a site's group has tables with room for a rank.
    fn open_tables(&mut self, site: usize, rank: usize, rescales_inputs: bool) -> Result<(), GpuError> {
        let group = self.groups[site].clone();
        for member in group {
            let entry = &self.sites.linears[member];
            let rescales_inputs = rescales_inputs && member == site;
            let most_rank = room_for(rank);
            match &mut self.tables[member] {
                Some(site) => {
                    let grows = site.table.allow_rank(most_rank);
                    let rescales = rescales_inputs && !site.rescales_inputs;
                    site.rescales_inputs |= rescales_inputs;
                    self.shape += u64::from(grows || rescales);
                }
                none => {
                    let table = Table::new(&self.gpu, entry.inputs(), entry.outputs(), most_rank, SLOTS)?;
                    *none = Some(SiteTable { table, rescales_inputs });
                    self.shape += 1;
                }
            }
        }
        Ok(())
    }

    fn open_heads(&mut self, labels: usize) -> Result<(), GpuError> {
        match &mut self.heads {
            Some(heads) => {
                heads.allow_rank(room_for(labels));
            }
            none => *none = Some(Table::new(&self.gpu, self.sites.hidden, 1, room_for(labels), SLOTS)?),
        }
        Ok(())
    }
}

/// The rank that a table allows so that one of `rank` fits: few different ones, so that captured steps seldom become old.
fn room_for(rank: usize) -> usize {
    rank.next_power_of_two().clamp(LEAST_RANK, MOST_RANK)
}
