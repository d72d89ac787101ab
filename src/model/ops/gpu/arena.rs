//! Memory of a step's matrices on a GPU, taken again and again at the same places.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use repertoire_kernels::cuda::{Dtype, Gpu, GpuError, Slice};

/// Bytes to which matrices are aligned.
const ALIGNMENT: usize = 256;
/// Bytes taken from the GPU at least.
const CHUNK: usize = 64 << 20;

/// Takes memory from the GPU when there is none left, and keeps it. A captured step goes on using its places: whoever uses them
/// in between has done so before, in the order of the GPU's stream.
#[derive(Clone)]
pub struct Arena(Arc<Inner>);

struct Inner {
    gpu: Arc<Gpu>,
    chunks: Mutex<Vec<Chunk>>,
}

struct Chunk {
    memory: Slice,
    /// Bytes nobody has, in order; neighbours are joined.
    free: Vec<Range<usize>>,
}

/// Memory that goes back to its arena when it is dropped.
pub struct Memory {
    slice: Slice,
    arena: Arena,
    chunk: usize,
    bytes: Range<usize>,
}

impl Arena {
    /// An arena without memory.
    pub fn new(gpu: &Arc<Gpu>) -> Self {
        Self(Arc::new(Inner { gpu: gpu.clone(), chunks: Mutex::default() }))
    }

    /// Memory for `len` numbers, whatever was there before.
    pub fn take(&self, dtype: Dtype, len: usize) -> Result<Memory, GpuError> {
        let bytes = len * dtype.bytes();
        let whole = bytes.max(1).next_multiple_of(ALIGNMENT);
        let mut chunks = self.0.chunks.lock();
        let found = chunks.iter_mut().enumerate().find_map(|(i, chunk)| Some((i, chunk.take(whole)?)));
        let (chunk, start) = match found {
            Some(found) => found,
            None => {
                let size = whole.max(CHUNK);
                let memory = Slice::new(&self.0.gpu, Dtype::U32, size / 4)?;
                chunks.push(Chunk { memory, free: std::iter::once(whole..size).collect() });
                (chunks.len() - 1, 0)
            }
        };
        let slice = chunks[chunk].memory.part_as(start, dtype, len);
        Ok(Memory { slice, arena: self.clone(), chunk, bytes: start..start + whole })
    }
}

impl Memory {
    /// The numbers.
    pub fn slice(&self) -> &Slice {
        &self.slice
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.arena.0.chunks.lock()[self.chunk].give(self.bytes.clone());
    }
}

impl Chunk {
    /// The first place that is large enough.
    fn take(&mut self, bytes: usize) -> Option<usize> {
        let at = self.free.iter().position(|free| free.len() >= bytes)?;
        let start = self.free[at].start;
        self.free[at].start += bytes;
        if self.free[at].is_empty() {
            self.free.remove(at);
        }
        Some(start)
    }

    fn give(&mut self, bytes: Range<usize>) {
        let at = self.free.partition_point(|free| free.start < bytes.start);
        self.free.insert(at, bytes);
        if self.free.get(at + 1).is_some_and(|next| next.start == self.free[at].end) {
            self.free[at].end = self.free.remove(at + 1).end;
        }
        if at > 0 && self.free[at - 1].end == self.free[at].start {
            self.free[at - 1].end = self.free.remove(at).end;
        }
    }
}
