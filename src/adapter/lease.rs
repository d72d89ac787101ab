//! The promise that an adapter version stays as long as somebody uses it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Adapter;
use super::registry::Artefact;

/// Counts the leases on one version.
#[derive(Clone, Debug, Default)]
pub struct LeaseCount(Arc<AtomicUsize>);

impl LeaseCount {
    /// Leases held now.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// An adapter version pinned by a request, from admission to its last token.
pub struct Lease {
    // Fields drop in this order: what the artefact frees with its last holder is then free at once.
    adapter: Arc<Adapter>,
    count: LeaseCount,
    artefact: Option<Arc<Artefact>>,
    version: Option<u32>,
}

impl Lease {
    /// Takes a lease that `count` counts, on an adapter that no registry holds.
    pub fn new(adapter: Arc<Adapter>, count: LeaseCount) -> Self {
        Self::take(adapter, count, None, None)
    }

    /// Takes a lease on a version of a registry, which learns when it ends.
    pub(super) fn of(artefact: Arc<Artefact>, adapter: Arc<Adapter>, count: LeaseCount) -> Self {
        Self::take(adapter, count, Some(artefact), None)
    }

    fn take(adapter: Arc<Adapter>, count: LeaseCount, artefact: Option<Arc<Artefact>>, version: Option<u32>) -> Self {
        count.0.fetch_add(1, Ordering::AcqRel);
        Self { adapter, count, artefact, version }
    }

    /// The same lease, of the version with this number.
    pub(super) fn of_version(mut self, number: u32) -> Self {
        self.version = Some(number);
        self
    }

    /// The number that its name has for it; none for an adapter that no registry holds.
    pub fn version(&self) -> Option<u32> {
        self.version
    }

    /// The adapter, for batches.
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        Self::take(self.adapter.clone(), self.count.clone(), self.artefact.clone(), self.version)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let held = self.count.0.fetch_sub(1, Ordering::AcqRel);
        if held == 1
            && let Some(artefact) = &self.artefact
        {
            artefact.released();
        }
    }
}

impl Deref for Lease {
    type Target = Adapter;

    fn deref(&self) -> &Adapter {
        &self.adapter
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("adapter", &self.adapter.digest).field("leases", &self.count.get()).finish()
    }
}
