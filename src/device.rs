//! Device and dtype: where tensors live, and how kernels see them.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};
use repertoire_kernels::cpu::Floats;

/// Calls `f` with the elements of a contiguous tensor on the CPU.
pub fn with_floats<T>(tensor: &Tensor, f: impl FnOnce(Floats<'_>) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    Ok(f(floats(&storage, layout)?))
}

/// The elements of a tensor that stays open (`storage_and_layout`).
pub fn floats<'a>(storage: &'a Storage, layout: &Layout) -> Result<Floats<'a>> {
    let Storage::Cpu(storage) = storage else {
        candle_core::bail!("a CPU kernel was given a tensor of another device");
    };
    let Some((from, to)) = layout.contiguous_offsets() else {
        candle_core::bail!("a CPU kernel was given a tensor that is not contiguous");
    };
    Ok(match storage {
        CpuStorage::F32(all) => Floats::F32(&all[from..to]),
        CpuStorage::BF16(all) => Floats::Bf16(&all[from..to]),
        CpuStorage::F16(all) => Floats::F16(&all[from..to]),
        _ => candle_core::bail!("a CPU kernel was given {:?}, it takes f32, bf16 and f16", storage.dtype()),
    })
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
    let (storage, layout) = tensor.storage_and_layout();
    f(cpu_f32(&storage, layout)?)
}

/// The f32 elements of a tensor that stays open (`storage_and_layout`).
pub fn cpu_f32<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match storage {
        Storage::Cpu(storage) => f32_slice(storage, layout),
        _ => candle_core::bail!("a CPU kernel was given a tensor of another device"),
    }
}
