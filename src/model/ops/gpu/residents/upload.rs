//! An adapter on its way to the GPU: all its tensors in one piece.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Tensor, TensorId};
use repertoire_kernels::cuda::{Dtype, Gpu, GpuError, Slice};

use crate::adapter::Adapter;
use crate::device::with_bytes;

/// Bytes to which tensors are aligned.
const ALIGNMENT: usize = 256;

/// The bytes of an adapter as the GPU has them.
pub struct Upload {
    /// Where each tensor begins, what its numbers are there, and how many.
    places: HashMap<TensorId, (usize, Dtype, usize)>,
    bytes: Vec<u8>,
}

impl Upload {
    /// Gathers what kernels read: low-rank matrices, virtual tokens and heads as stored, rows in f32, prefixes and weights in
    /// the base's dtype.
    pub fn of(adapter: &Adapter, base: Dtype) -> candle_core::Result<Self> {
        let mut upload = Self { places: HashMap::new(), bytes: Vec::new() };
        let base = match base {
            Dtype::F16 => DType::F16,
            Dtype::Bf16 => DType::BF16,
            Dtype::F32 | Dtype::U32 => DType::F32,
        };
        for patch in adapter.patches.iter().flatten() {
            if let Some(low_rank) = &patch.low_rank {
                // Both are of one dtype on the GPU.
                let dtype = if low_rank.a.dtype() == low_rank.b.dtype() { low_rank.a.dtype() } else { DType::F32 };
                upload.add(&low_rank.a, dtype)?;
                upload.add(&low_rank.b, dtype)?;
            }
            let rows = [&patch.output_scale, &patch.rescale_output, &patch.rescale_input, &patch.bias];
            rows.into_iter().flatten().try_for_each(|row| upload.add(row, DType::F32))?;
            patch.weight.iter().try_for_each(|weight| upload.add(weight, base))?;
        }
        if let Some(virtual_tokens) = &adapter.virtual_tokens {
            upload.add(&virtual_tokens.embeddings, virtual_tokens.embeddings.dtype())?;
        }
        if let Some(prefix) = &adapter.prefix {
            prefix.keys.iter().chain(&prefix.values).try_for_each(|tensor| upload.add(tensor, base))?;
        }
        if let Some(head) = &adapter.head {
            upload.add(&head.weight, head.weight.dtype())?;
        }
        upload.bytes.resize(upload.bytes.len().next_multiple_of(ALIGNMENT), 0);
        Ok(upload)
    }

    fn add(&mut self, tensor: &Tensor, dtype: DType) -> candle_core::Result<()> {
        let (dtype, on_gpu) = match dtype {
            DType::F16 => (DType::F16, Dtype::F16),
            DType::BF16 => (DType::BF16, Dtype::Bf16),
            _ => (DType::F32, Dtype::F32),
        };
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        self.places.insert(tensor.id(), (self.bytes.len(), on_gpu, tensor.elem_count()));
        with_bytes(&tensor.to_dtype(dtype)?.contiguous()?, |bytes| self.bytes.extend_from_slice(bytes))
    }

    /// Bytes on the GPU.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Copies everything there.
    pub fn write(&self, gpu: &Arc<Gpu>) -> Result<Slice, GpuError> {
        let memory = Slice::new(gpu, Dtype::U32, self.bytes.len() / 4)?;
        memory.write(&self.bytes)?;
        Ok(memory)
    }

    /// Where one of the adapter's tensors is in `memory`.
    ///
    /// # Panics
    /// If it was not gathered.
    pub fn part(&self, memory: &Slice, tensor: &Tensor) -> Slice {
        let (start, dtype, len) = self.places[&tensor.id()];
        memory.part_as(start, dtype, len)
    }
}
