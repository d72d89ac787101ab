//! Copies beside the work on a GPU.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaStream, result};

use super::{Gpu, GpuError, Pinned, Slice};

/// A stream of its own for copies to a GPU: they run while kernels do.
pub struct Lane {
    stream: Arc<CudaStream>,
    gpu: Arc<Gpu>,
}

impl Lane {
    /// A lane that nobody uses yet.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, GpuError> {
        gpu.outside_graphs()?;
        Ok(Self { stream: gpu.stream().context().new_stream()?, gpu: gpu.clone() })
    }

    /// Copies bytes of page-locked memory to where `to` has its byte `at`. They have to stay as they are until the lane was
    /// waited for. The GPU's own stream knows nothing of it: `to` was taken before a [`Mark`](super::Mark) that is done, nobody
    /// reads it before the lane was waited for, and nobody lets go of it before.
    ///
    /// # Panics
    /// If the bytes lie outside, here or there, or are another GPU's.
    pub fn copy(&self, to: &Slice, at: usize, from: &Pinned, bytes: Range<usize>) -> Result<(), GpuError> {
        assert!(Arc::ptr_eq(to.gpu(), &self.gpu) && Arc::ptr_eq(from.gpu(), &self.gpu), "memory of another GPU");
        let fits = at.checked_add(bytes.len()).is_some_and(|end| end <= to.len() * to.dtype().bytes());
        assert!(fits, "{} bytes from byte {at} on of {}", bytes.len(), to.len() * to.dtype().bytes());
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.context().bind_to_thread()?;
        // SAFETY: both are there, and long enough; the caller keeps them until the lane was waited for.
        unsafe { result::memcpy_htod_async(to.pointer() + at as u64, &from[bytes], self.stream.cu_stream()) }?;
        Ok(())
    }

    /// Waits until all its copies are done. Kernels launched afterwards find what was copied.
    pub fn wait(&self) -> Result<(), GpuError> {
        Ok(self.stream.synchronize()?)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Nobody's memory may go while a copy of it is under way.
        let _ = self.stream.synchronize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::checks::gpu;

    #[test]
    #[ignore = "needs a GPU"]
    fn what_was_copied_beside_the_work_is_there_once_the_lane_was_waited_for() {
        let gpu = gpu();
        let len = 1 << 20;
        let to = Slice::of_u32(&gpu, &vec![7; len]).expect("memory");
        gpu.synchronize().expect("an end");
        let mut from = Pinned::new(&gpu, 4 * len).expect("memory");
        from.u32s_mut().iter_mut().zip(0..).for_each(|(to, number)| *to = number);
        let lane = Lane::new(&gpu).expect("a lane");
        lane.copy(&to, 8, &from, 4..4 * len - 4).expect("a copy");
        lane.wait().expect("an end");
        let expected: Vec<u32> = [7, 7].into_iter().chain(1..len as u32 - 1).collect();
        assert_eq!(to.to_u32().expect("numbers"), expected);
    }
}
