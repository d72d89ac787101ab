//! Copies beside the work on a GPU, there and back.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaStream, result};

use super::{Gpu, GpuError, Pinned, Slice};

/// A stream of its own for copies to a GPU and from it: they run while kernels do, and while another thread captures a graph.
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
        self.check(to, at, from, bytes.len());
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.context().bind_to_thread()?;
        // SAFETY: both are there, and long enough; the caller keeps them until the lane was waited for.
        unsafe { result::memcpy_htod_async(to.pointer() + at as u64, &from[bytes], self.stream.cu_stream()) }?;
        Ok(())
    }

    /// Copies what `from` has from its byte `at` on to bytes of page-locked memory, and waits for it. Nobody changes `from`
    /// meanwhile, nor after the GPU's own stream was waited for last.
    ///
    /// # Panics
    /// If the bytes lie outside, here or there, or are another GPU's.
    pub fn read(&self, from: &Slice, at: usize, to: &mut Pinned, bytes: Range<usize>) -> Result<(), GpuError> {
        self.check(from, at, to, bytes.len());
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.context().bind_to_thread()?;
        // SAFETY: both are there, and long enough, until the lane was waited for, which is before this returns.
        unsafe { result::memcpy_dtoh_async(&mut to[bytes], from.pointer() + at as u64, self.stream.cu_stream()) }?;
        self.wait()
    }

    fn check(&self, slice: &Slice, at: usize, pinned: &Pinned, bytes: usize) {
        assert!(Arc::ptr_eq(slice.gpu(), &self.gpu) && Arc::ptr_eq(pinned.gpu(), &self.gpu), "memory of another GPU");
        let fits = at.checked_add(bytes).is_some_and(|end| end <= slice.len() * slice.dtype().bytes());
        assert!(fits, "{bytes} bytes from byte {at} on of {}", slice.len() * slice.dtype().bytes());
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
    use crate::cuda::{Dtype, Graph};

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
        // And back.
        lane.read(&to, 4, &mut from, 0..4 * len - 4).expect("a copy");
        assert_eq!(from.u32s()[..len - 1], expected[1..]);
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn copies_go_on_while_a_graph_is_captured() {
        let gpu = gpu();
        let (weights, other) = (Slice::of_u32(&gpu, &[7; 1000]), Slice::new(&gpu, Dtype::F32, 1000));
        let (weights, other) = (weights.expect("memory"), other.expect("memory"));
        gpu.synchronize().expect("an end");
        let mut there = Pinned::new(&gpu, 4000).expect("memory");
        let lane = Lane::new(&gpu).expect("a lane");
        let graph = Graph::capture(&gpu, || {
            other.zero()?;
            let read = || lane.read(&weights, 0, &mut there, 0..4000);
            std::thread::scope(|scope| scope.spawn(read).join().expect("no panic"))
        });
        graph.expect("a graph").launch().expect("a launch");
        gpu.synchronize().expect("an end");
        assert!(there.u32s().iter().all(|&number| number == 7));
        assert!(other.to_f32().expect("numbers").iter().all(|&number| number == 0.0));
    }
}
