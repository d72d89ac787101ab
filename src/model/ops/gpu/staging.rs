//! Page-locked memory through which the numbers of steps come and go while others run.

use std::sync::Arc;

use repertoire_kernels::cuda::{Dtype, Gpu, GpuError, Pinned, Slice};

/// Bytes taken at least.
const LEAST: usize = 64 << 10;

/// Memory taken in turn, 0 and 1: the step that had it before is over. It grows as steps need, which is slow, and seldom.
#[derive(Default)]
pub struct Staging([Option<Pinned>; 2]);

impl Staging {
    /// Copies u32 numbers to new memory of the GPU, in the order of launches.
    pub fn send(&mut self, gpu: &Arc<Gpu>, turn: usize, numbers: &[u32]) -> Result<Slice, GpuError> {
        let pinned = self.of(gpu, turn, size_of_val(numbers))?;
        pinned.u32s_mut()[..numbers.len()].copy_from_slice(numbers);
        let slice = Slice::new(gpu, Dtype::U32, numbers.len())?;
        slice.write_from(pinned, 0..size_of_val(numbers))?;
        Ok(slice)
    }

    /// Has numbers of four bytes brought, in the order of launches.
    pub fn bring(&mut self, gpu: &Arc<Gpu>, turn: usize, numbers: &Slice) -> Result<(), GpuError> {
        numbers.read_to(self.of(gpu, turn, numbers.len() * 4)?, 0)
    }

    /// What was brought in that turn, as bits; it is there: a mark made since is done.
    pub fn brought(&self, turn: usize) -> &[u32] {
        self.0[turn].as_ref().map_or(&[], Pinned::u32s)
    }

    fn of(&mut self, gpu: &Arc<Gpu>, turn: usize, bytes: usize) -> Result<&mut Pinned, GpuError> {
        let pinned = &mut self.0[turn];
        // Before other memory is taken in its place.
        *pinned = pinned.take().filter(|pinned| pinned.len() >= bytes);
        match pinned {
            Some(pinned) => Ok(pinned),
            none => Ok(none.insert(Pinned::new(gpu, bytes.next_power_of_two().max(LEAST))?)),
        }
    }
}
