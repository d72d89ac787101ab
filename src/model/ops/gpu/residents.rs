//! Adapters on a GPU: each in a slot of the tables that kernels look into.

mod courier;
mod upload;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use repertoire_kernels::cuda::{Dtype, Gpu, GpuError, LowRank, MOST_RANK, SitePatch, Slice, Table};

use crate::adapter::{Adapter, Digest, OnDevice, SiteId, SiteMap};
use crate::device::{Placement, gpu_error};

use super::groups::groups;
use courier::{Arrival, Courier};
use upload::Upload;

/// Slots of a table, the empty one included: adapters that can be on the GPU at once.
const SLOTS: usize = 513;
/// The least room that tables have for ranks.
const LEAST_RANK: usize = 16;

/// The adapters of one base that are on the GPU, and room for more.
pub struct Residents {
    gpu: Arc<Gpu>,
    courier: Courier,
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
    /// Tells the host's copy.
    on_device: OnDevice,
    /// Where it has patches.
    patched: Vec<usize>,
    /// What becomes of the tables once it has arrived.
    patches: Vec<(usize, SitePatch)>,
    head: Option<SitePatch>,
    /// While it is on its way.
    arrival: Option<Arrival>,
    bytes: usize,
    last_used: u64,
}

impl Residents {
    /// Nobody.
    pub fn new(placement: &Placement, sites: Arc<SiteMap>) -> Result<Self> {
        let mut by_site = vec![0..0; sites.linears.len()];
        for group in groups(&sites) {
            by_site[group.clone()].fill(group);
        }
        Ok(Self {
            gpu: placement.target.gpu.clone(),
            courier: Courier::new(&placement.target.gpu)?,
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
        })
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

    /// Begins to bring an adapter to the GPU, where it is not; answers whether it is there. Adapters used longest ago make room.
    pub fn call(&mut self, adapter: &Arc<Adapter>) -> Result<bool> {
        if let Some(&slot) = self.by_digest.get(&adapter.digest) {
            let Some(resident) = &mut self.slots[slot] else { return Ok(true) };
            resident.last_used = self.clock;
            let Some(arrival) = &resident.arrival else {
                resident.announce(adapter);
                return Ok(true);
            };
            let Some(arrived) = arrival.arrived() else { return Ok(false) };
            return self.settle(slot, arrived).map(|()| true);
        }
        let upload = Arc::new(Upload::of(adapter, self.dtype));
        let (slot, memory) = self.room(upload.bytes())?;
        // The courier's copies are not in the order of launches.
        self.gpu.synchronize().map_err(gpu_error)?;
        let arrival = self.courier.send(upload.clone(), memory.clone())?;
        self.place(adapter, slot, &upload, &memory, arrival);
        Ok(false)
    }

    /// Sees that the adapters of a step are on the GPU. None of them makes room for another.
    pub fn admit<'a>(&mut self, adapters: impl Iterator<Item = &'a Arc<Adapter>>) -> Result<()> {
        self.clock += 1;
        let adapters: Vec<&Arc<Adapter>> = adapters.collect();
        for adapter in &adapters {
            if let Some(resident) = self.by_digest.get(&adapter.digest).and_then(|&slot| self.slots[slot].as_mut()) {
                resident.last_used = self.clock;
            }
        }
        for adapter in adapters {
            if !self.call(adapter)? {
                let slot = self.by_digest[&adapter.digest];
                let arrival = self.slots[slot].as_ref().and_then(|resident| resident.arrival.as_ref());
                let arrived = arrival.map_or(Ok(()), Arrival::wait);
                self.settle(slot, arrived)?;
            }
        }
        Ok(())
    }

    /// A slot, and memory of `bytes` bytes.
    fn room(&mut self, bytes: usize) -> Result<(usize, Slice)> {
        while self.bytes + bytes > self.most_bytes && self.evict() {}
        let free = |slots: &[Option<Resident>]| slots.iter().skip(1).position(Option::is_none).map(|at| at + 1);
        let slot = match free(&self.slots) {
            Some(slot) => Some(slot),
            None if self.evict() => free(&self.slots),
            None => None,
        };
        let Some(slot) = slot else {
            candle_core::bail!("a step has more adapters than the {} that a GPU holds at once", SLOTS - 1);
        };
        loop {
            match Slice::new(&self.gpu, Dtype::U32, bytes / 4) {
                Err(GpuError::OutOfMemory { .. }) if self.evict() => {}
                memory => return Ok((slot, memory.map_err(gpu_error)?)),
            }
        }
    }

    /// An adapter's bytes are there: kernels may find them.
    fn settle(&mut self, slot: usize, arrived: Result<()>) -> Result<()> {
        let Some(resident) = &mut self.slots[slot] else { return Ok(()) };
        resident.arrival = None;
        resident.on_device.set(arrived.is_ok());
        let patches = std::mem::take(&mut resident.patches);
        let head = resident.head.take();
        let settled = arrived.and_then(|()| self.open(slot, patches, head).map_err(gpu_error));
        if settled.is_err() {
            self.remove(slot);
        }
        settled
    }

    fn open(
        &mut self,
        slot: usize,
        patches: Vec<(usize, SitePatch)>,
        head: Option<SitePatch>,
    ) -> std::result::Result<(), GpuError> {
        for (site, patch) in patches {
            let rank = patch.low_rank.as_ref().map_or(0, |low_rank| low_rank.rank);
            self.open_tables(site, rank, patch.rescale_in.is_some())?;
            if let Some(site) = &mut self.tables[site] {
                site.table.set(slot, patch)?;
            }
        }
        if let Some(patch) = head {
            self.open_heads(patch.low_rank.as_ref().map_or(0, |low_rank| low_rank.rank))?;
            if let Some(heads) = &mut self.heads {
                heads.set(slot, patch)?;
            }
        }
        Ok(())
    }

    /// Takes the adapter that was used longest ago from the GPU; not one of this step, nor one on its way.
    fn evict(&mut self) -> bool {
        let unused = self.slots.iter().enumerate().filter_map(|(slot, resident)| {
            let unused = |resident: &&Resident| resident.last_used < self.clock && resident.arrival.is_none();
            Some((resident.as_ref().filter(unused)?.last_used, slot))
        });
        let oldest = unused.min();
        oldest.inspect(|&(_, slot)| self.remove(slot)).is_some()
    }

    fn remove(&mut self, slot: usize) {
        let Some(resident) = self.slots[slot].take() else { return };
        self.by_digest.remove(&resident.digest);
        self.bytes -= resident.bytes;
        resident.on_device.set(false);
        // Nobody reads the slot until somebody else has it, where this one's patches must not be left.
        for site in resident.patched {
            let cleared = self.tables[site].as_mut().map(|site| site.table.set(slot, SitePatch::default()));
            if let Some(Err(error)) = cleared {
                tracing::warn!(%error, "a slot could not be cleared");
            }
        }
    }

    /// Notes where an adapter's parts will be.
    fn place(&mut self, adapter: &Adapter, slot: usize, upload: &Upload, memory: &Slice, arrival: Arrival) {
        let part = |tensor: &Tensor| upload.part(memory, tensor);
        let row = |tensor: &Option<Tensor>| tensor.as_ref().map(part);
        let patched = adapter.patches.iter().enumerate().filter_map(|(site, patch)| Some((site, patch.as_ref()?)));
        let patches = patched.clone().map(|(site, patch)| {
            let low_rank = patch.low_rank.as_ref().map(|low_rank| LowRank {
                a: part(&low_rank.a),
                b: part(&low_rank.b),
                rank: low_rank.a.dims()[0],
                scale: low_rank.scale,
            });
            let on_gpu = SitePatch {
                low_rank,
                scale: row(&patch.output_scale),
                rescale: row(&patch.rescale_output),
                rescale_in: row(&patch.rescale_input),
                bias: row(&patch.bias),
            };
            (site, on_gpu)
        });
        let head = adapter.head.as_ref().filter(|head| head.weight.dims()[0] <= MOST_RANK).map(|head| {
            let (a, rank) = (part(&head.weight), head.weight.dims()[0]);
            // The second half is never computed: the first numbers of the first serve.
            let b = a.part(0..rank);
            SitePatch { low_rank: Some(LowRank { a, b, rank, scale: 1.0 }), ..SitePatch::default() }
        });
        let prefix = adapter.prefix.iter().flat_map(|prefix| prefix.keys.iter().zip(&prefix.values));
        let weights = patched.clone().filter_map(|(site, patch)| Some((SiteId(site), part(patch.weight.as_ref()?))));
        self.slots[slot] = Some(Resident {
            slot: slot as u32,
            virtual_tokens: adapter.virtual_tokens.as_ref().map(|v| part(&v.embeddings)),
            prefix: prefix.map(|(keys, values)| (part(keys), part(values))).collect(),
            weights: weights.collect(),
            digest: adapter.digest,
            on_device: adapter.on_device.clone(),
            patched: patched.clone().map(|(site, _)| site).collect(),
            patches: patches.collect(),
            head,
            arrival: Some(arrival),
            bytes: upload.bytes(),
            last_used: self.clock,
        });
        self.by_digest.insert(adapter.digest, slot);
        self.bytes += upload.bytes();
    }

    /// Sees that a site's group has tables with room for a rank.
    fn open_tables(&mut self, site: usize, rank: usize, rescales_inputs: bool) -> std::result::Result<(), GpuError> {
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

    fn open_heads(&mut self, labels: usize) -> std::result::Result<(), GpuError> {
        match &mut self.heads {
            Some(heads) => {
                heads.allow_rank(room_for(labels));
            }
            none => *none = Some(Table::new(&self.gpu, self.sites.hidden, 1, room_for(labels), SLOTS)?),
        }
        Ok(())
    }
}

impl Resident {
    /// The host may have read the adapter anew since it was brought here.
    fn announce(&mut self, adapter: &Adapter) {
        if !adapter.on_device.get() {
            self.on_device = adapter.on_device.clone();
            self.on_device.set(true);
        }
    }
}

/// The rank that a table allows so that one of `rank` fits: few different ones, so that captured steps seldom become old.
fn room_for(rank: usize) -> usize {
    rank.next_power_of_two().clamp(LEAST_RANK, MOST_RANK)
}
