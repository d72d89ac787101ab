//! Page-locked memory of the processor's, which a GPU reads and writes by itself.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;

use super::{Gpu, GpuError};

/// Page-locked bytes, zero at first. Copies between them and a [`Slice`](super::Slice) run in the order of the stream while the
/// processor goes on.
///
/// Letting go of them waits for the GPU.
pub struct Pinned {
    start: NonNull<u8>,
    bytes: usize,
    gpu: Arc<Gpu>,
}

// SAFETY: the memory belongs to no thread, and is changed through a unique reference alone.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Takes memory, which is slow: take it once.
    ///
    /// # Panics
    /// If `bytes` is no multiple of 4.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self, GpuError> {
        assert!(bytes.is_multiple_of(4), "{bytes} bytes: a multiple of 4 is needed");
        gpu.outside_graphs()?;
        // No bytes are an error to the driver.
        let taken = bytes.max(4);
        // SAFETY: the thread is bound to the context: the check before has done so.
        let start = unsafe { result::malloc_host(taken, 0) }.map_err(|error| match error.0 {
            CUDA_ERROR_OUT_OF_MEMORY => GpuError::OutOfPinned { bytes },
            _ => error.into(),
        })?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(GpuError::OutOfPinned { bytes })?;
        // SAFETY: as many bytes are there, and nobody else knows of them.
        unsafe { start.write_bytes(0, taken) };
        Ok(Self { start, bytes, gpu: gpu.clone() })
    }

    /// The bytes as numbers.
    pub fn u32s(&self) -> &[u32] {
        // SAFETY: memory of the driver's begins at a page, holds a multiple of 4 bytes, and any bits are a number.
        unsafe { slice::from_raw_parts(self.start.cast().as_ptr(), self.bytes / 4) }
    }

    /// The bytes as numbers.
    pub fn u32s_mut(&mut self) -> &mut [u32] {
        // SAFETY: as for `u32s`; the reference is unique.
        unsafe { slice::from_raw_parts_mut(self.start.cast().as_ptr(), self.bytes / 4) }
    }

    /// Whose copies it takes part in.
    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as many bytes are there, all written.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as many bytes are there, all written; the reference is unique.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A copy may be under way. If that cannot be waited for, the memory is lost rather than given to somebody else.
        if self.gpu.synchronize().is_ok() {
            // SAFETY: it was taken so; no copy is under way.
            self.gpu.stream().context().record_err(unsafe { result::free_host(self.start.as_ptr().cast()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;
    use crate::cuda::checks::gpu;

    #[test]
    #[ignore = "needs a GPU"]
    fn bytes_are_numbers() {
        let gpu = gpu();
        for bytes in [0, 4, 4096, 10_000_000] {
            let mut pinned = Pinned::new(&gpu, bytes).expect("memory");
            assert_eq!((pinned.len(), pinned.u32s().len()), (bytes, bytes / 4));
            assert!(pinned.iter().all(|&byte| byte == 0), "{bytes} bytes");
            pinned.u32s_mut().iter_mut().zip(0..).for_each(|(number, i)| *number = i);
            let numbers = pinned.as_chunks().0.iter().map(|&number| u32::from_le_bytes(number));
            assert!(numbers.eq(0..bytes as u32 / 4), "{bytes} bytes");
            pinned.fill(255);
            assert!(pinned.u32s().iter().all(|&number| number == u32::MAX), "{bytes} bytes");
        }
        assert!(catch_unwind(|| Pinned::new(&gpu, 6)).is_err(), "numbers have four bytes");
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn more_than_there_is_is_an_error() {
        let result = Pinned::new(&gpu(), 1 << 50).map(drop);
        assert!(matches!(result, Err(GpuError::OutOfPinned { .. } | GpuError::Driver(_))), "{result:?}");
    }
}
