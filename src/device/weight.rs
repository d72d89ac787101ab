//! A weight of the base.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use repertoire_kernels::cpu::Floats;
use repertoire_kernels::cuda::{Dtype, Gpu, GpuError, Slice};

use super::{Cargo, Freight, OpenTensor};

/// A weight where the base runs: on the host or on a GPU, never on both.
#[derive(Clone, Debug)]
pub struct Weight(Place);

#[derive(Clone, Debug)]
enum Place {
    Host(Tensor),
    Gpu {
        numbers: Slice,
        shape: Vec<usize>,
        /// The way back.
        freight: Arc<Freight>,
    },
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
    freight: Arc<Freight>,
}

impl Placement {
    /// Weights of `dtype` on a GPU; of f32 where kernels do not know it.
    pub fn new(target: GpuTarget, dtype: DType) -> Result<Self> {
        let freight = Arc::new(Freight::new(&target.gpu)?);
        Ok(Self { target, dtype: kernel_dtype(dtype).unwrap_or(Dtype::F32), freight })
    }

    /// The same GPU for weights of another type.
    pub fn with_dtype(&self, dtype: Dtype) -> Self {
        Self { dtype, ..self.clone() }
    }

    /// Brings weights there, one after the other in one piece.
    pub fn place<const N: usize>(&self, cargos: [Cargo<'_>; N]) -> Result<[Weight; N]> {
        let len = cargos.iter().map(Cargo::len).sum();
        let all = Slice::new(&self.target.gpu, self.dtype, len).map_err(gpu_error)?;
        let mut from = 0;
        let loads = cargos.map(|cargo| {
            let part = all.part(from..from + cargo.len());
            from += cargo.len();
            (cargo, part)
        });
        self.freight.bring(&loads)?;
        Ok(loads.map(|(cargo, numbers)| {
            Weight(Place::Gpu { numbers, shape: cargo.shape().into(), freight: self.freight.clone() })
        }))
    }

    /// Tells that all weights are there.
    pub fn settle(&self) {
        self.freight.settle();
    }
}

impl Weight {
    /// Weights of the host, at `placement`, where there is one, one after the other in one piece.
    pub fn place<const N: usize>(hosts: [Tensor; N], placement: Option<&Placement>) -> Result<[Self; N]> {
        let Some(placement) = placement else { return Ok(hosts.map(Self::from)) };
        let cargos = hosts.into_iter().map(Cargo::try_from).collect::<Result<Vec<_>>>()?;
        let cargos = cargos.try_into().map_err(|_| candle_core::Error::Msg("as many cargos as tensors".into()))?;
        placement.place(cargos)
    }

    /// The numbers on the GPU of weights that lie there one after the other.
    pub fn joined(weights: &[&Self]) -> Option<Slice> {
        let (first, rest) = weights.split_first()?;
        rest.iter().try_fold(first.on_gpu().clone(), |joined, next| joined.joined(next.on_gpu()))
    }

    /// The tensor on the host.
    ///
    /// # Panics
    /// If the base runs on a GPU: the weight is there.
    pub fn on_host(&self) -> &Tensor {
        match &self.0 {
            Place::Host(tensor) => tensor,
            Place::Gpu { .. } => panic!("a base that runs on a GPU has its weights there alone"),
        }
    }

    /// The numbers on the GPU.
    ///
    /// # Panics
    /// If the base runs on the CPU: the weight is on the host.
    pub fn on_gpu(&self) -> &Slice {
        match &self.0 {
            Place::Gpu { numbers, .. } => numbers,
            Place::Host(_) => panic!("a base that runs on a GPU has its weights there"),
        }
    }

    /// Its shape.
    pub fn dims(&self) -> &[usize] {
        match &self.0 {
            Place::Host(tensor) => tensor.dims(),
            Place::Gpu { shape, .. } => shape,
        }
    }

    /// What its numbers are, where the base runs.
    pub fn dtype(&self) -> DType {
        match &self.0 {
            Place::Host(tensor) => tensor.dtype(),
            Place::Gpu { numbers, .. } => tensor_dtype(numbers.dtype()),
        }
    }

    /// How many numbers it has.
    pub fn elem_count(&self) -> usize {
        self.dims().iter().product()
    }

    /// Rows from `start` on, [count, ..], on the CPU and as the base has them: from a GPU they are read back.
    ///
    /// # Panics
    /// If a GPU's weight does not have them.
    pub fn rows(&self, start: usize, count: usize) -> Result<Tensor> {
        let (numbers, shape, freight) = match &self.0 {
            Place::Host(tensor) => return tensor.narrow(0, start, count),
            Place::Gpu { numbers, shape, freight } => (numbers, shape, freight),
        };
        let width: usize = shape[1..].iter().product();
        let part = numbers.part(start * width..(start + count) * width);
        let mut bytes = vec![0; part.len() * part.dtype().bytes()];
        freight.fetch(&part, &mut bytes)?;
        let shape = [&[count], &shape[1..]].concat();
        Tensor::from_raw_buffer(&bytes, tensor_dtype(part.dtype()), &shape, &Device::Cpu)
    }
}

/// A weight of the host.
impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self(Place::Host(tensor))
    }
}

/// What kernels call a type of floats; `None` if they do not know it.
pub fn kernel_dtype(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::BF16 => Some(Dtype::Bf16),
        _ => None,
    }
}

fn tensor_dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
        Dtype::U32 => DType::U32,
    }
}

/// Calls `f` with the bytes of a contiguous tensor of floats on the CPU, and what they are.
pub fn with_bytes<T>(tensor: &Tensor, f: impl FnOnce(Dtype, &[u8]) -> T) -> Result<T> {
    Ok(match OpenTensor::new(tensor).floats()? {
        Floats::F32(all) => f(Dtype::F32, bytemuck::cast_slice(all)),
        Floats::F16(all) => f(Dtype::F16, bytemuck::cast_slice(all)),
        Floats::Bf16(all) => f(Dtype::Bf16, bytemuck::cast_slice(all)),
    })
}

/// A GPU's error as those of tensors are told.
pub fn gpu_error(error: GpuError) -> candle_core::Error {
    candle_core::Error::wrap(error)
}
