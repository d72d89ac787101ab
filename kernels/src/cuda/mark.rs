//! A point in a GPU's stream.

use cudarc::driver::CudaEvent;

use super::{Gpu, GpuError};

/// A point in the order of launches on a [`Gpu`]: what comes later it does not wait for.
pub struct Mark(CudaEvent);

impl Gpu {
    /// Marks what was launched so far.
    pub fn record(&self) -> Result<Mark, GpuError> {
        self.outside_graphs()?;
        Ok(Mark(self.stream().record_event(None)?))
    }
}

impl Mark {
    /// Waits until everything before is done. Any thread may, but not while it captures a graph.
    pub fn wait(&self) -> Result<(), GpuError> {
        Ok(self.0.synchronize()?)
    }

    /// Whether everything before is done. Any thread may ask, but not while it captures a graph.
    pub fn is_done(&self) -> Result<bool, GpuError> {
        self.0.context().bind_to_thread()?;
        Ok(self.0.try_is_complete()?)
    }
}

#[cfg(test)]
mod tests {
    use crate::cuda::checks::gpu;
    use crate::cuda::{Dtype, Pinned, Slice};

    #[test]
    #[ignore = "needs a GPU"]
    fn what_was_before_a_mark_is_done() {
        let gpu = gpu();
        let len = 1 << 22;
        let (here, there) = (Slice::new(&gpu, Dtype::U32, len), Slice::new(&gpu, Dtype::U32, len));
        let (here, there) = (here.expect("memory"), there.expect("memory"));
        let [mut from, mut to] = [0, 1].map(|_| Pinned::new(&gpu, 4 * len).expect("memory"));
        for round in 1..20 {
            from.u32s_mut().fill(round);
            here.write_from(&from, 0..4 * len).expect("a copy");
            there.copy_from(&here).expect("a copy");
            there.read_to(&mut to, 0).expect("a copy");
            let mark = gpu.record().expect("a mark");
            // Later work does not matter to it.
            here.zero().expect("a launch");
            // Another thread may wait.
            std::thread::scope(|scope| scope.spawn(|| mark.wait()).join().expect("no panic").expect("a wait"));
            assert!(mark.is_done().expect("an answer"));
            assert!(to.u32s().iter().all(|&x| x == round), "round {round}");
        }
        gpu.synchronize().expect("an end");
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn a_mark_tells_in_the_end_that_it_is_done() {
        let gpu = gpu();
        let x = Slice::new(&gpu, Dtype::F32, 1 << 24).expect("memory");
        (0..100).for_each(|_| x.zero().expect("a launch"));
        let mark = gpu.record().expect("a mark");
        while !mark.is_done().expect("an answer") {
            std::thread::yield_now();
        }
        mark.wait().expect("no wait");
    }
}
