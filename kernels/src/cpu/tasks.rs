//! Pieces of work, handed out to the threads in order.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rayon::prelude::*;

/// Multiplications below which threads cost more than they save.
pub(super) const SERIAL: usize = 1 << 16;
/// Bytes of weights that a task reads: long enough to hide that tasks are handed out, short enough to end together.
pub(super) const TASK_BYTES: usize = 96 << 10;

/// A matrix that tasks write, each in places of its own.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub *mut f32);

// SAFETY: whoever writes through it vouches that no other task touches that place.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The place `offset` numbers on; a method, so that closures take the whole and not the bare pointer.
    pub(super) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// How many of `outputs` columns, of `bytes` weights each, make a task: whole tiles, so that no task but the last is ragged.
pub(super) fn columns(outputs: usize, bytes: usize) -> usize {
    let even = outputs.div_ceil(rayon::current_num_threads() * 2);
    (TASK_BYTES / bytes.max(1)).min(even).next_multiple_of(24)
}

/// Runs tasks `0..count`: whoever is free takes the next one, so that memory is read in order and nobody ends late.
/// A task may wait for one with a lower number: that one is under way or done. `alone` keeps all on this thread.
pub(super) fn run(count: usize, alone: bool, task: impl Fn(usize) + Sync) {
    let threads = rayon::current_num_threads().min(count);
    if alone || threads <= 1 {
        return (0..count).for_each(task);
    }
    let next = AtomicUsize::new(0);
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
        loop {
            let i = next.fetch_add(1, Relaxed);
            if i >= count {
                return;
            }
            task(i);
        }
    });
}
