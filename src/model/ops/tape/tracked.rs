//! A matrix of a step that learns.

use std::ops::Deref;
use std::sync::Arc;

use crate::device::Buffer;

/// A matrix [lines, width], f32.
#[derive(Clone, Debug)]
pub struct Tracked {
    pub numbers: Arc<Buffer>,
    pub width: usize,
    /// Its number among those whose gradient is asked for; none where nobody asks.
    pub id: Option<usize>,
}

impl Tracked {
    /// How many lines it has.
    pub fn lines(&self) -> usize {
        self.numbers.len() / self.width
    }

    /// Bytes of its numbers.
    pub fn bytes(&self) -> usize {
        size_of_val::<[f32]>(&self.numbers)
    }
}

impl Deref for Tracked {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers
    }
}
