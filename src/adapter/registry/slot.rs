//! The place in memory of one adapter version.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::flight::Flight;
use crate::adapter::{Adapter, LeaseCount};

/// Whether a version is in memory, who holds it and when it was last wanted.
#[derive(Default)]
pub struct Slot {
    pub state: Mutex<SlotState>,
    pub leases: LeaseCount,
    pins: AtomicUsize,
    /// The residency's clock when it was last leased.
    pub used: AtomicU64,
}

/// What is in a slot.
#[derive(Default)]
pub enum SlotState {
    #[default]
    Out,
    Loading(Arc<Flight>),
    Resident(Arc<Adapter>),
}

impl Slot {
    /// The adapter, if it is in memory.
    pub fn resident(&self) -> Option<Arc<Adapter>> {
        match &*self.state.lock() {
            SlotState::Resident(adapter) => Some(adapter.clone()),
            _ => None,
        }
    }

    /// Whether nobody holds it in memory.
    pub fn idle(&self) -> bool {
        self.leases.get() == 0 && !self.pinned()
    }

    /// Whether a name pins it.
    pub fn pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) > 0
    }

    /// Whether a name pins it by another pin than this one.
    pub fn pinned_besides(&self, pin: Option<&Pin>) -> bool {
        let own = pin.is_some_and(|pin| std::ptr::eq(&*pin.0, self));
        self.pins.load(Ordering::Acquire) > usize::from(own)
    }

    /// Takes the adapter out, unless somebody holds it. Leases begin under the same lock, so none can slip in.
    pub fn evict(&self) -> Option<Arc<Adapter>> {
        let mut state = self.state.lock();
        if !self.idle() || !matches!(*state, SlotState::Resident(_)) {
            return None;
        }
        match mem::take(&mut *state) {
            SlotState::Resident(adapter) => Some(adapter),
            _ => None,
        }
    }

    /// Ends a load that failed.
    pub fn clear(&self, flight: &Arc<Flight>) {
        let mut state = self.state.lock();
        if matches!(&*state, SlotState::Loading(other) if Arc::ptr_eq(other, flight)) {
            *state = SlotState::Out;
        }
    }
}

/// Keeps a version in memory until dropped.
pub struct Pin(Arc<Slot>);

impl Pin {
    pub fn new(slot: Arc<Slot>) -> Self {
        slot.pins.fetch_add(1, Ordering::AcqRel);
        Self(slot)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::AcqRel);
    }
}
