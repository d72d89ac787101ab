//! Norms, rotary embedding, activations, residuals.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use repertoire_kernels::cpu::{self, Activation, Rotation};

use crate::device::{f32_slice, with_floats};
use crate::model::layers::Norm;
use crate::profile::{self, Part};

/// Normalises the last dimension of `x`; weights of width `n` normalise each group of `n` numbers.
pub fn norm(x: &Tensor, norm: &Norm) -> Result<Tensor> {
    let _timer = profile::time(Part::Elementwise);
    x.apply_op1_no_bwd(norm)
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut x = f32_slice(storage, layout)?.to_vec();
        match self {
            Self::Rms { weight, eps } => with_floats(weight, |w| cpu::rms_norm(&mut x, w, *eps))?,
            Self::Layer { weight, bias, eps } => {
                with_floats(weight, |w| with_floats(bias, |b| cpu::layer_norm(&mut x, w, b, *eps)))??
            }
        }
        Ok((CpuStorage::F32(x), layout.shape().clone()))
    }
}

/// Turns each head of `x` [tokens, heads · head_dim] by its token's angles.
pub fn rotate(x: &Tensor, rotation: &Rotation, head_dim: usize) -> Result<Tensor> {
    let _timer = profile::time(Part::Elementwise);
    x.apply_op1_no_bwd(&Rotate { rotation, head_dim })
}

struct Rotate<'a> {
    rotation: &'a Rotation,
    head_dim: usize,
}

impl CustomOp1 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut x = f32_slice(storage, layout)?.to_vec();
        cpu::rotate(&mut x, self.rotation, layout.dims()[0], self.head_dim);
        Ok((CpuStorage::F32(x), layout.shape().clone()))
    }
}

/// Applies an activation to every element.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let _timer = profile::time(Part::Elementwise);
    x.apply_op1_no_bwd(&Activate(activation))
}

struct Activate(Activation);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut x = f32_slice(storage, layout)?.to_vec();
        cpu::activate(&mut x, self.0);
        Ok((CpuStorage::F32(x), layout.shape().clone()))
    }
}

/// `activation(gate) ⊙ up`.
pub fn gate(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    let _timer = profile::time(Part::Elementwise);
    gate.apply_op2_no_bwd(up, &Gate(activation))
}

struct Gate(Activation);

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut y = f32_slice(gate, layout)?.to_vec();
        cpu::gate(&mut y, f32_slice(up, up_layout)?, self.0);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

/// `a + b`.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let _timer = profile::time(Part::Elementwise);
    a + b
}
