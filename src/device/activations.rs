//! A step's intermediate matrices.

use std::ops::Deref;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor};

use super::{Buffer, f32_slice_mut};

/// An intermediate matrix of a step, f32. It has one owner; its memory goes back to [`Buffer`]s when it is dropped, unless
/// a tape of autograd still needs it. So clones of the tensor must not outlive it.
#[derive(Debug)]
pub struct Activations(Tensor);

impl Activations {
    /// A matrix [lines, width] of a CPU kernel's result.
    pub fn new(numbers: Buffer, lines: usize, width: usize) -> Result<Self> {
        Tensor::from_vec(numbers.into_vec(), (lines, width), &Device::Cpu).map(Self)
    }

    /// Changes the numbers in place.
    pub fn change(&mut self, f: impl Fn(&mut [f32]) -> Result<()>) -> Result<()> {
        self.0.inplace_op1(&Change(f))
    }
}

impl From<Tensor> for Activations {
    fn from(tensor: Tensor) -> Self {
        Self(tensor)
    }
}

impl Deref for Activations {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.0
    }
}

impl Drop for Activations {
    fn drop(&mut self) {
        if !self.0.track_op() {
            // Fails on other devices, which look after their memory themselves.
            let _ = self.0.inplace_op1(&GiveBack);
        }
    }
}

struct Change<F>(F);

impl<F: Fn(&mut [f32]) -> Result<()>> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        (self.0)(f32_slice_mut(storage, layout)?)
    }
}

struct GiveBack;

impl InplaceOp1 for GiveBack {
    fn name(&self) -> &'static str {
        "give-back"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        if let CpuStorage::F32(numbers) = storage {
            drop(Buffer::from(std::mem::take(numbers)));
        }
        Ok(())
    }
}
