//! Norms, rotary embedding, activations, residuals. What takes a matrix and not a reference changes it in place.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use repertoire_kernels::cpu::{self, Activation, Rotation};

use crate::device::{Activations, Buffer, f32_slice, with_f32, with_floats};
use crate::model::layers::Norm;
use crate::profile::{self, Part};

/// Normalises the last dimension of `x`; weights of width `n` normalise each group of `n` numbers.
pub fn norm(x: &Activations, norm: &Norm) -> Result<Activations> {
    let _timer = profile::time(Part::Elementwise);
    x.apply_op1_no_bwd(norm).map(Activations::from)
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32_slice(storage, layout)?;
        let mut y = Buffer::new(x.len());
        y.copy_from_slice(x);
        match self {
            Self::Rms { weight, eps } => with_floats(weight.on_host(), |w| cpu::rms_norm(&mut y, w, *eps))?,
            Self::Layer { weight, bias, eps } => with_floats(weight.on_host(), |w| {
                with_floats(bias.on_host(), |b| cpu::layer_norm(&mut y, w, b, *eps))
            })??,
        }
        Ok((CpuStorage::F32(y.into_vec()), layout.shape().clone()))
    }
}

/// Turns each head of `x` [tokens, heads · head_dim] by its token's angles.
pub fn rotate(mut x: Activations, rotation: &Rotation, head_dim: usize) -> Result<Activations> {
    let _timer = profile::time(Part::Elementwise);
    let tokens = x.dims()[0];
    x.change(|x| {
        cpu::rotate(x, rotation, tokens, head_dim);
        Ok(())
    })?;
    Ok(x)
}

/// Applies an activation to every element.
pub fn activate(mut x: Activations, activation: Activation) -> Result<Activations> {
    let _timer = profile::time(Part::Elementwise);
    x.change(|x| {
        cpu::activate(x, activation);
        Ok(())
    })?;
    Ok(x)
}

/// `activation(gate) ⊙ up`.
pub fn gate(mut gate: Activations, up: &Activations, activation: Activation) -> Result<Activations> {
    let _timer = profile::time(Part::Elementwise);
    gate.change(|gate| {
        with_f32(up, |up| {
            cpu::gate(gate, up, activation);
            Ok(())
        })
    })?;
    Ok(gate)
}

/// `x + y`.
pub fn add(mut x: Activations, y: &Activations) -> Result<Activations> {
    let _timer = profile::time(Part::Elementwise);
    x.change(|x| {
        with_f32(y, |y| {
            cpu::add(x, y);
            Ok(())
        })
    })?;
    Ok(x)
}

/// `x + row`, for every row of `x` [.., width].
pub fn add_row(mut x: Activations, row: &Tensor) -> Result<Activations> {
    let _timer = profile::time(Part::Elementwise);
    x.change(|x| with_floats(row, |row| cpu::add_row(x, row)))?;
    Ok(x)
}
