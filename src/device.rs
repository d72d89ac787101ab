//! Device and dtype: where tensors live, how kernels see them, and the memory of a step's matrices.

mod activations;
mod buffers;
mod cargo;
mod freight;
mod weight;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout, Result, Storage, StorageRef, Tensor};
use repertoire_kernels::cpu::Floats;

pub use activations::Activations;
pub use buffers::Buffer;
pub use cargo::Cargo;
pub use freight::Freight;
pub use weight::{GpuTarget, Placement, Weight, gpu_error, kernel_dtype, with_bytes};

/// A tensor whose elements can be read as long as this is held.
pub struct OpenTensor<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> OpenTensor<'a> {
    /// Opens a tensor for reading.
    pub fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// The elements, if it is contiguous and on the CPU.
    pub fn floats(&self) -> Result<Floats<'_>> {
        let Storage::Cpu(storage) = &*self.storage else {
            candle_core::bail!("a CPU kernel was given a tensor of another device");
        };
        let Some((from, to)) = self.layout.contiguous_offsets() else {
            candle_core::bail!("a CPU kernel was given a tensor that is not contiguous");
        };
        Ok(match storage {
            CpuStorage::F32(all) => Floats::F32(&all[from..to]),
            CpuStorage::BF16(all) => Floats::Bf16(&all[from..to]),
            CpuStorage::F16(all) => Floats::F16(&all[from..to]),
            _ => candle_core::bail!("a CPU kernel was given {:?}, it takes f32, bf16 and f16", storage.dtype()),
        })
    }

    /// The elements of an f32 tensor.
    pub fn f32(&self) -> Result<&[f32]> {
        match self.floats()? {
            Floats::F32(all) => Ok(all),
            _ => candle_core::bail!("activations are contiguous f32"),
        }
    }
}

/// Calls `f` with the elements of a contiguous tensor on the CPU.
pub fn with_floats<T>(tensor: &Tensor, f: impl FnOnce(Floats<'_>) -> T) -> Result<T> {
    Ok(f(OpenTensor::new(tensor).floats()?))
}

/// Runs `f` on a thread of the compute pool: what it shares out then goes to threads that are awake.
pub fn compute<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
}

/// The f32 elements of a custom operation's argument.
pub fn f32_slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((from, to))) => Ok(&all[from..to]),
        _ => candle_core::bail!("activations are contiguous f32"),
    }
}

/// The f32 elements that a custom operation changes in place.
pub fn f32_slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((from, to))) => Ok(&mut all[from..to]),
        _ => candle_core::bail!("keys and values are contiguous f32"),
    }
}

/// Calls `f` with the elements of a contiguous f32 tensor on the CPU.
pub fn with_f32<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    f(OpenTensor::new(tensor).f32()?)
}
