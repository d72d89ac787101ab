//! A weight of the base.

use std::ops::Deref;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use repertoire_kernels::cpu::Floats;
use repertoire_kernels::cuda::{Dtype, Gpu, GpuError, Slice};

use super::OpenTensor;

/// A weight on the host, where adapters are read against it, and on the GPU where the base runs on one. Derefs to the host's.
#[derive(Clone, Debug)]
pub struct Weight {
    host: Tensor,
    gpu: Option<Slice>,
}

/// A GPU that a base is to run on.
#[derive(Clone)]
pub struct GpuTarget {
    pub gpu: Arc<Gpu>,
    /// The most that adapters may take there, bytes.
    pub adapter_bytes: usize,
}

/// The GPU that a base's weights are brought to, and what they are there.
#[derive(Clone)]
pub struct Placement {
    pub target: GpuTarget,
    pub dtype: Dtype,
}

impl Placement {
    /// Weights of `dtype` on a GPU; of f32 where kernels do not know it.
    pub fn new(target: GpuTarget, dtype: DType) -> Self {
        let dtype = match dtype {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::Bf16,
            _ => Dtype::F32,
        };
        Self { target, dtype }
    }
}

impl Weight {
    /// Weights on the host, and at `placement`, where there is one, one after the other in one piece.
    pub fn place<const N: usize>(hosts: [Tensor; N], placement: Option<&Placement>) -> Result<[Self; N]> {
        let Some(Placement { target, dtype }) = placement else {
            return Ok(hosts.map(|host| Self { host, gpu: None }));
        };
        let len = hosts.iter().map(Tensor::elem_count).sum();
        let all = Slice::new(&target.gpu, *dtype, len).map_err(gpu_error)?;
        let mut from = 0;
        let weights = hosts.into_iter().map(|host| {
            let part = all.part(from..from + host.elem_count());
            from += host.elem_count();
            write(&part, &host)?;
            Ok(Self { host, gpu: Some(part) })
        });
        let weights = weights.collect::<Result<Vec<_>>>()?;
        weights.try_into().map_err(|_| candle_core::Error::Msg("as many weights as tensors".into()))
    }

    /// The numbers on the GPU of weights that lie there one after the other.
    pub fn joined(weights: &[&Self]) -> Option<Slice> {
        let (first, rest) = weights.split_first()?;
        rest.iter().try_fold(first.on_gpu().clone(), |joined, next| joined.joined(next.on_gpu()))
    }

    /// The numbers on the GPU.
    ///
    /// # Panics
    /// If the weight was not brought there.
    pub fn on_gpu(&self) -> &Slice {
        self.gpu.as_ref().expect("a base that runs on a GPU has its weights there")
    }
}

impl Deref for Weight {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.host
    }
}

/// Copies a tensor's numbers to a GPU, rounded to what they are there.
fn write(slice: &Slice, tensor: &Tensor) -> Result<()> {
    let dtype = match slice.dtype() {
        Dtype::F32 | Dtype::U32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
    };
    with_bytes(&tensor.to_dtype(dtype)?.contiguous()?, |bytes| slice.write(bytes))?.map_err(gpu_error)
}

/// Calls `f` with the bytes of a contiguous tensor of floats on the CPU.
pub fn with_bytes<T>(tensor: &Tensor, f: impl FnOnce(&[u8]) -> T) -> Result<T> {
    Ok(match OpenTensor::new(tensor).floats()? {
        Floats::F32(all) => f(bytemuck::cast_slice(all)),
        Floats::F16(all) => f(bytemuck::cast_slice(all)),
        Floats::Bf16(all) => f(bytemuck::cast_slice(all)),
    })
}

/// A GPU's error as those of tensors are told.
pub fn gpu_error(error: GpuError) -> candle_core::Error {
    candle_core::Error::wrap(error)
}
