//! Numbers on their way to the GPU in one piece.

use std::ops::Range;

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
        // Kernels read some of them several at a time: each begins at a multiple of 16 bytes.
        let from = self.0.len().next_multiple_of(4);
        self.0.resize(from, 0);
        self.0.extend(numbers);
        from..self.0.len()
    }

    /// All of them.
    pub fn numbers(&self) -> &[u32] {
        &self.0
    }
}
