//! The promise that an adapter version stays as long as somebody uses it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Adapter;

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
#[derive(Debug)]
pub struct Lease {
    adapter: Arc<Adapter>,
    count: LeaseCount,
}

impl Lease {
    /// Takes a lease that `count` counts.
    pub fn new(adapter: Arc<Adapter>, count: LeaseCount) -> Self {
        count.0.fetch_add(1, Ordering::AcqRel);
        Self { adapter, count }
    }

    /// The adapter, for batches.
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        Self::new(self.adapter.clone(), self.count.clone())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.count.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Deref for Lease {
    type Target = Adapter;

    fn deref(&self) -> &Adapter {
        &self.adapter
    }
}
