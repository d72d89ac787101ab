//! Launches recorded once and launched again.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, DriverError, result};

use super::{Gpu, GpuError};

/// Launches that were recorded once; one call launches them all again, in order.
///
/// It knows where memory is and not what is there: launched again, it works with what slices hold by then. It does not keep
/// that memory: hold the slices that were launched with, and what they point to, as long as the graph.
pub struct Graph {
    graph: CudaGraph,
    gpu: Arc<Gpu>,
}

// SAFETY: the driver's graphs belong to no thread, only must not be used by two at once: Graph is not Sync. Every call makes
// the GPU's context the thread's own first.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `f` launches on the GPU, which is not run now; nothing is also a graph. If `f` fails or panics, what it
    /// recorded is thrown away.
    ///
    /// Meanwhile nobody else may use the GPU's stream: it would be recorded too. In `f`, whatever takes, reads or writes memory
    /// from the processor, or waits, fails with [`GpuError::Capturing`], as does another capture; and `f` must not let go of the
    /// last clone of a [`Slice`](super::Slice).
    pub fn capture<E: From<GpuError>>(gpu: &Arc<Gpu>, f: impl FnOnce() -> Result<(), E>) -> Result<Self, E> {
        gpu.outside_graphs()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        gpu.stream().begin_capture(mode).map_err(GpuError::from)?;
        let recording = Recording(gpu);
        f()?;
        Ok(recording.end()?)
    }

    /// Launches everything again.
    pub fn launch(&self) -> Result<(), GpuError> {
        // A graph in a graph would be this one's copy, which nobody asks for.
        self.gpu.outside_graphs()?;
        Ok(self.graph.launch()?)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // The driver then frees it, once it has run. An error is for the next who uses the context.
        let context = self.gpu.stream().context();
        context.record_err(context.bind_to_thread());
    }
}

/// A capture under way; thrown away if nobody ends it.
struct Recording<'a>(&'a Arc<Gpu>);

impl Recording<'_> {
    fn end(self) -> Result<Graph, GpuError> {
        let gpu = self.0.clone();
        // The call may answer an error of before instead of ending anything: then it is thrown away.
        let graph = gpu.stream().end_capture(CUgraphInstantiate_flags(0))?;
        std::mem::forget(self);
        let graph = graph.ok_or(DriverError(sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED))?;
        graph.upload()?;
        Ok(Graph { graph, gpu })
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        let context = self.0.stream().context();
        // The first call may answer an error of before instead of doing anything.
        let bound = context.bind_to_thread().or_else(|_| context.bind_to_thread());
        // SAFETY: the stream is there; if it no longer captures, the call answers that.
        let graph = bound.and_then(|()| unsafe { result::stream::end_capture(self.0.stream().cu_stream()) });
        // An error of either says that there is no graph.
        if let Ok(graph) = graph
            && !graph.is_null()
        {
            // SAFETY: the graph is there, and nobody else's.
            context.record_err(unsafe { result::graph::destroy(graph) });
        }
    }
}

/// Has the driver do what it else refuses a thread that captures, as it cannot be part of a graph and is not meant to be.
pub(super) fn relaxed<T>(f: impl FnOnce() -> Result<T, GpuError>) -> Result<T, GpuError> {
    let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: it swaps a mode of this thread for another.
    let mut exchange = || unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) }.result();
    exchange()?;
    let result = f();
    exchange()?;
    result
}

#[cfg(test)]
mod tests;
