//! Which adapters are in host memory, and which go first when it is full.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::slot::{Pin, Slot};
use crate::adapter::Adapter;

/// Counts the bytes of all resident adapters and sends the longest unused back to the store.
///
/// Its lock is taken before a slot's, never after, and never held while anything is read, decoded or freed.
pub struct Residency {
    budget: u64,
    clock: AtomicU64,
    /// Changed under the lock, read without.
    bytes: AtomicU64,
    tenants: Mutex<HashMap<SlotKey, Tenant>>,
    /// Held from a look at what is pinned to one more pin, so that two who pin at once see each other.
    pub pinning: Mutex<()>,
}

/// A slot's address: slots are shared, so it stays.
type SlotKey = usize;

struct Tenant {
    slot: Arc<Slot>,
    bytes: u64,
}

fn key(slot: &Arc<Slot>) -> SlotKey {
    Arc::as_ptr(slot) as usize
}

impl Residency {
    /// Room for `budget` bytes; leased and pinned adapters may exceed it.
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            clock: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            tenants: Mutex::default(),
            pinning: Mutex::default(),
        }
    }

    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes of all resident adapters.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Resident adapters.
    pub fn count(&self) -> usize {
        self.tenants.lock().len()
    }

    /// Bytes of pinned adapters, without those of `slot` and those that only `pin` holds.
    pub fn pinned_bytes(&self, slot: &Arc<Slot>, pin: Option<&Pin>) -> u64 {
        let tenants = self.tenants.lock();
        let others = tenants.values().filter(|t| !Arc::ptr_eq(&t.slot, slot) && t.slot.pinned_besides(pin));
        others.map(|t| t.bytes).sum()
    }

    /// Notes that a slot is wanted now.
    pub fn touch(&self, slot: &Slot) {
        slot.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Counts an adapter that was just put into its slot. The caller holds a lease on it.
    pub fn enter(&self, slot: &Arc<Slot>, bytes: u64) {
        let mut tenants = self.tenants.lock();
        tenants.insert(key(slot), Tenant { slot: slot.clone(), bytes });
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Forgets a slot that nobody can reach any more.
    pub fn leave(&self, slot: &Arc<Slot>) {
        let mut tenants = self.tenants.lock();
        let left = tenants.remove(&key(slot));
        if let Some(tenant) = &left {
            self.bytes.fetch_sub(tenant.bytes, Ordering::AcqRel);
        }
        // The tensors are freed by whoever holds the slot last, without the lock.
        drop(tenants);
    }

    /// Sends idle adapters back to the store, the longest unused first, until the budget is kept. Their memory goes with the answer.
    #[must_use]
    pub fn trim(&self) -> Vec<(Arc<Adapter>, Arc<Slot>)> {
        let mut freed = Vec::new();
        if self.bytes() <= self.budget {
            return freed;
        }
        let mut tenants = self.tenants.lock();
        let mut idle: Vec<(u64, SlotKey)> = tenants
            .iter()
            .filter(|(_, tenant)| tenant.slot.idle())
            .map(|(key, tenant)| (tenant.slot.used.load(Ordering::Relaxed), *key))
            .collect();
        idle.sort_unstable();
        for (_, key) in idle {
            if self.bytes() <= self.budget {
                break;
            }
            let Some(adapter) = tenants.get(&key).and_then(|tenant| tenant.slot.evict()) else { continue };
            if let Some(tenant) = tenants.remove(&key) {
                self.bytes.fetch_sub(tenant.bytes, Ordering::AcqRel);
                freed.push((adapter, tenant.slot));
            }
        }
        freed
    }
}
