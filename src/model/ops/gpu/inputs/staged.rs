//! Numbers on their way to the GPU in one piece.

use std::ops::Range;
use std::sync::Arc;

use repertoire_kernels::cuda::{Gpu, GpuError, Slice};

/// u32 numbers, gathered.
#[derive(Default)]
pub struct Staged(Vec<u32>);

impl Staged {
    /// Adds numbers; answers where they will be.
    pub fn add(&mut self, numbers: &[u32]) -> Range<usize> {
        self.extend(numbers.iter().copied())
    }

    /// Adds numbers; answers where they will be.
    pub fn extend(&mut self, numbers: impl Iterator<Item = u32>) -> Range<usize> {
        let from = self.0.len();
        self.0.extend(numbers);
        from..self.0.len()
    }

    /// Copies all of them to the GPU.
    pub fn write(&self, gpu: &Arc<Gpu>) -> Result<Slice, GpuError> {
        Slice::of_u32(gpu, &self.0)
    }
}
