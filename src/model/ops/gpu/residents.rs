//! Adapters on a GPU: each in a slot of the tables that kernels look into.

mod courier;
mod tables;
mod upload;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use candle_core::{Result, Tensor};
use repertoire_kernels::cuda::{Dtype, Gpu, GpuError, LowRank, MOST_RANK, SitePatch, Slice};

use crate::adapter::{Adapter, Digest, OnDevice, SiteId, SiteMap};
use crate::device::{Placement, gpu_error};
use crate::model::{Called, Held};

use courier::{Arrival, Courier};
use tables::{Patches, SLOTS, Tables};
use upload::Upload;

/// The adapters of one base that are on the GPU, and room for more.
pub struct Residents {
    gpu: Arc<Gpu>,
    courier: Courier,
    dtype: Dtype,
    pub tables: Tables,
    /// By slot; 0 is nobody's.
    slots: Vec<Option<Resident>>,
    by_digest: HashMap<Digest, usize>,
    /// Slots in which something may be left of the adapter before.
    retired: HashSet<usize>,
    /// Bytes that adapters take, and may take.
    bytes: usize,
    most_bytes: usize,
    /// Counts uses.
    clock: u64,
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
    patches: Patches,
    /// While it is on its way.
    arrival: Option<Arrival>,
    bytes: usize,
    last_used: u64,
    /// Whoever else has it keeps the adapter here.
    held: Arc<()>,
}

impl Residents {
    /// Nobody.
    pub fn new(placement: &Placement, sites: Arc<SiteMap>) -> Result<Self> {
        let gpu = &placement.target.gpu;
        Ok(Self {
            gpu: gpu.clone(),
            courier: Courier::new(gpu)?,
            dtype: placement.dtype,
            tables: Tables::new(gpu, sites),
            slots: (0..SLOTS).map(|_| None).collect(),
            by_digest: HashMap::new(),
            retired: HashSet::new(),
            bytes: 0,
            most_bytes: placement.target.adapter_bytes,
            clock: 0,
        })
    }

    /// Where an adapter is.
    pub fn get(&self, adapter: &Adapter) -> Option<&Resident> {
        self.slots[*self.by_digest.get(&adapter.digest)?].as_ref()
    }

    /// Begins to bring an adapter to the GPU, where it is not. Adapters that nobody keeps make room, those used longest ago first, where
    /// that is enough.
    pub fn call(&mut self, adapter: &Arc<Adapter>) -> Result<Called> {
        self.bring(adapter, false)
    }

    /// Sees that the adapters of a step are on the GPU. None of them makes room for another: those that nobody called may together
    /// take more than adapters should.
    pub fn admit<'a>(&mut self, adapters: impl Iterator<Item = &'a Arc<Adapter>>) -> Result<()> {
        let adapters: Vec<&Arc<Adapter>> = adapters.collect();
        let mut held: Vec<Held> = adapters.iter().filter_map(|adapter| Some(self.get(adapter)?.keep())).collect();
        for adapter in adapters {
            if let Called::Here(there) = self.bring(adapter, true)? {
                held.push(there);
                continue;
            }
            let slot = self.by_digest[&adapter.digest];
            let arrival = self.slots[slot].as_ref().and_then(|resident| resident.arrival.as_ref());
            let arrived = arrival.map_or(Ok(()), Arrival::wait);
            held.push(self.settle(slot, arrived)?);
        }
        Ok(())
    }

    fn bring(&mut self, adapter: &Adapter, at_once: bool) -> Result<Called> {
        self.clock += 1;
        if let Some(&slot) = self.by_digest.get(&adapter.digest) {
            let Some(resident) = &mut self.slots[slot] else { candle_core::bail!("a slot that nobody has") };
            resident.last_used = self.clock;
            let Some(arrival) = &resident.arrival else {
                resident.announce(adapter);
                return Ok(Called::Here(resident.keep()));
            };
            let Some(arrived) = arrival.arrived() else { return Ok(Called::Coming) };
            return self.settle(slot, arrived).map(Called::Here);
        }
        check(adapter)?;
        let upload = Arc::new(Upload::of(adapter, self.dtype));
        let Some((slot, memory)) = self.room(upload.bytes(), at_once)? else { return Ok(Called::NoRoom) };
        // Steps under way may still read what was there before.
        let taken = self.gpu.record().map_err(gpu_error)?;
        let arrival = self.courier.send(upload.clone(), memory.clone(), taken)?;
        self.place(adapter, slot, &upload, &memory, arrival);
        Ok(Called::Coming)
    }

    /// A slot, and memory of `bytes` bytes, once there is room; `at_once` even where adapters then take more than they should.
    fn room(&mut self, bytes: usize, at_once: bool) -> Result<Option<(usize, Slice)>> {
        self.settle_arrived();
        // One that is larger than all of the room comes alone. Nobody leaves for one that then has no room.
        let kept: usize = self.slots.iter().flatten().filter(|resident| resident.stays()).map(|r| r.bytes).sum();
        if kept + bytes > self.most_bytes && kept > 0 && !at_once {
            return Ok(None);
        }
        while self.bytes + bytes > self.most_bytes && self.evict() {}
        let slot = loop {
            let free = |&slot: &usize| self.slots[slot].is_none() && !self.retired.contains(&slot);
            match (1..SLOTS).find(free) {
                Some(slot) => break slot,
                None if self.evict() => {}
                None if at_once => candle_core::bail!("a step has more than the {} adapters a GPU holds", SLOTS - 1),
                None => return Ok(None),
            }
        };
        loop {
            match Slice::new(&self.gpu, Dtype::U32, bytes / 4) {
                Err(GpuError::OutOfMemory { .. }) if self.evict() => {}
                // Somebody else's memory comes back when those that are kept are not any more.
                Err(GpuError::OutOfMemory { .. }) if self.bytes > 0 && !at_once => return Ok(None),
                memory => return Ok(Some((slot, memory.map_err(gpu_error)?))),
            }
        }
    }

    /// Notes who has arrived, whoever called them: they may be gone by now.
    fn settle_arrived(&mut self) {
        for slot in 0..self.slots.len() {
            let arrival = self.slots[slot].as_ref().and_then(|resident| resident.arrival.as_ref());
            if let Some(arrived) = arrival.and_then(Arrival::arrived)
                && let Err(error) = self.settle(slot, arrived)
            {
                tracing::warn!(%error, "an adapter did not arrive");
            }
        }
    }

    /// An adapter's bytes are there: kernels may find them. Answers what keeps it.
    fn settle(&mut self, slot: usize, arrived: Result<()>) -> Result<Held> {
        let Some(resident) = &mut self.slots[slot] else { candle_core::bail!("a slot that nobody has") };
        let held = resident.keep();
        resident.arrival = None;
        resident.on_device.set(arrived.is_ok());
        let patches = std::mem::take(&mut resident.patches);
        let settled = arrived.and_then(|()| self.tables.set(slot, patches).map_err(gpu_error));
        if settled.is_err() {
            self.remove(slot);
        }
        settled.map(|()| held)
    }

    /// Takes the adapter that was used longest ago from the GPU; not one that somebody keeps, nor one on its way. A step under way may
    /// have it: what it reads changes in the order of launches alone, and memory is given to others in that order too.
    fn evict(&mut self) -> bool {
        let unused = self.slots.iter().enumerate().filter_map(|(slot, resident)| {
            Some((resident.as_ref().filter(|resident| !resident.stays())?.last_used, slot))
        });
        let oldest = unused.min();
        oldest.inspect(|&(_, slot)| self.remove(slot)).is_some()
    }

    fn remove(&mut self, slot: usize) {
        let Some(resident) = self.slots[slot].take() else { return };
        self.by_digest.remove(&resident.digest);
        self.bytes -= resident.bytes;
        resident.on_device.set(false);
        if let Err(error) = self.tables.clear(slot, &resident.patched) {
            // Whoever had it next would find what it left.
            tracing::error!(%error, slot, "a slot could not be cleared, and is not used again");
            self.retired.insert(slot);
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
            patches: Patches { linears: patches.collect(), head },
            arrival: Some(arrival),
            bytes: upload.bytes(),
            last_used: self.clock,
            held: Arc::default(),
        });
        self.by_digest.insert(adapter.digest, slot);
        self.bytes += upload.bytes();
    }
}

impl Resident {
    /// Keeps it here.
    fn keep(&self) -> Held {
        Held(Some(self.held.clone()))
    }

    /// Whether it makes no room for others: somebody keeps it, or it is on its way.
    fn stays(&self) -> bool {
        Arc::strong_count(&self.held) > 1 || self.arrival.is_some()
    }

    /// The host may have read the adapter anew since it was brought here.
    fn announce(&mut self, adapter: &Adapter) {
        if !adapter.on_device.get() {
            self.on_device = adapter.on_device.clone();
            self.on_device.set(true);
        }
    }
}

/// What tables hold of an adapter.
fn check(adapter: &Adapter) -> Result<()> {
    let low_ranks = adapter.patches.iter().flatten().filter_map(|patch| patch.low_rank.as_ref());
    match low_ranks.map(|low_rank| low_rank.a.dims()[0]).max() {
        Some(rank) if rank > MOST_RANK => {
            candle_core::bail!(
                "an adapter of rank {rank}: a GPU takes up to {MOST_RANK}; set adapters.max_rank to that"
            )
        }
        _ => Ok(()),
    }
}
