//! Non-linear functions, element by element.

use rayon::prelude::*;

use super::functions::{erf, exp, tanh};

/// Elements below which threads cost more than they save.
const PIECE: usize = 1 << 13;

/// The activations of transformers that the supported bases use, by their config names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: with the error function.
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`: the approximation with tanh.
    GeluTanh,
    Relu,
    /// `silu`, `swish`.
    Silu,
    Tanh,
}

/// Applies `f` to every element, in place.
pub fn activate(x: &mut [f32], f: Activation) {
    x.par_chunks_mut(PIECE).for_each(|x| piece(x, f));
}

/// `gate = f(gate) ⊙ up`, in place.
pub fn gate(gate: &mut [f32], up: &[f32], f: Activation) {
    let pieces = gate.par_chunks_mut(PIECE).zip(up.par_chunks(PIECE));
    pieces.for_each(|(gate, up)| {
        piece(gate, f);
        gate.iter_mut().zip(up).for_each(|(g, u)| *g *= u);
    });
}

fn piece(x: &mut [f32], f: Activation) {
    #[cfg(target_arch = "x86_64")]
    if super::product::wide() {
        // SAFETY: the features were detected.
        return unsafe { piece_avx2(x, f) };
    }
    piece_plain(x, f);
}

/// The same code, compiled for wider vectors; multiply-adds are spelled out in it, so its bits are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn piece_avx2(x: &mut [f32], f: Activation) {
    piece_plain(x, f);
}

#[inline(always)]
fn piece_plain(x: &mut [f32], f: Activation) {
    match f {
        Activation::Gelu => each(x, |x| 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))),
        Activation::GeluTanh => each(x, |x| {
            const ROOT: f32 = 0.797_884_6; // √(2/π)
            0.5 * x * (1.0 + tanh(ROOT * (x + 0.044_715 * x * x * x)))
        }),
        Activation::Relu => each(x, |x| x.max(0.0)),
        Activation::Silu => each(x, |x| x / (1.0 + exp(-x))),
        Activation::Tanh => each(x, tanh),
    }
}

#[inline(always)]
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    x.iter_mut().for_each(|x| *x = f(*x));
}
