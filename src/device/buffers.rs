//! Memory of a step's intermediate matrices, kept for the next step.
//!
//! A decode step takes the same sizes again and again. From the system, each would come as fresh pages, zeroed and mapped.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

/// Numbers below which the allocator is as good: 4 KiB.
const SMALL: usize = 1 << 10;
/// Most bytes kept.
const MOST_BYTES: usize = 128 << 20;
/// What so many takes passed by, several decode steps or a few prompts, is let go.
const STALE: u64 = 1 << 12;

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), bytes: 0, takes: 0 });

/// f32 numbers whose memory is kept when they are dropped.
#[derive(Debug)]
pub struct Buffer(Vec<f32>);

impl Buffer {
    /// `len` numbers, whatever they were before: for those who overwrite them all.
    pub fn new(len: usize) -> Self {
        if len < SMALL {
            return Self(vec![0.0; len]);
        }
        let mut numbers = POOL.lock().take(len).unwrap_or_else(|| Vec::with_capacity(len));
        numbers.resize(len, 0.0);
        Self(numbers)
    }

    /// The numbers, which then are nobody's to keep; see [`Buffer::from`].
    pub fn into_vec(mut self) -> Vec<f32> {
        std::mem::take(&mut self.0)
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(numbers: Vec<f32>) -> Self {
        Self(numbers)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() >= SMALL {
            POOL.lock().give(std::mem::take(&mut self.0));
        }
    }
}

struct Pool {
    /// Each with the number of takes when it came.
    free: Vec<(Vec<f32>, u64)>,
    bytes: usize,
    takes: u64,
}

impl Pool {
    /// The smallest that holds `len` numbers, unless that is much too large.
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        self.takes += 1;
        let fits = |capacity: usize| (len..=4 * len).contains(&capacity);
        let found = self.free.iter().enumerate().filter(|(_, (free, _))| fits(free.capacity()));
        let (at, _) = found.min_by_key(|(_, (free, _))| free.capacity())?;
        let (numbers, _) = self.free.swap_remove(at);
        self.bytes -= bytes(&numbers);
        Some(numbers)
    }

    fn give(&mut self, numbers: Vec<f32>) {
        let (takes, mut kept) = (self.takes, self.bytes);
        self.free.retain(|(free, since)| {
            let keep = takes - since <= STALE;
            kept -= if keep { 0 } else { bytes(free) };
            keep
        });
        self.bytes = kept;
        if self.bytes + bytes(&numbers) <= MOST_BYTES {
            self.bytes += bytes(&numbers);
            self.free.push((numbers, takes));
        }
    }
}

fn bytes(numbers: &Vec<f32>) -> usize {
    numbers.capacity() * size_of::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_taken_again_and_what_nobody_takes_is_let_go() {
        let mut pool = Pool { free: Vec::new(), bytes: 0, takes: 0 };
        pool.give(vec![0.0; 5000]);
        pool.give(vec![0.0; 90_000]);
        let taken = pool.take(4000).unwrap();
        assert_eq!((taken.capacity(), pool.bytes), (5000, 360_000));
        assert!(pool.take(4000).is_none(), "one that is much too large stays for whoever needs it");
        for _ in 0..=STALE {
            assert!(pool.take(4000).is_none());
        }
        pool.give(taken);
        assert_eq!((pool.free.len(), pool.bytes), (1, 20_000));
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let mut pool = Pool { free: Vec::new(), bytes: 0, takes: 0 };
        for _ in 0..20 {
            pool.give(Vec::with_capacity(MOST_BYTES / 4 / 8));
        }
        assert_eq!((pool.free.len(), pool.bytes), (8, MOST_BYTES));
    }
}
