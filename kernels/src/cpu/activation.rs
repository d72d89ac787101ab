//! Non-linear functions, element by element.

use rayon::prelude::*;

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

impl Activation {
    #[inline(always)]
    fn of(self, x: f32) -> f32 {
        match self {
            Self::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                const ROOT: f32 = 0.797_884_6; // √(2/π)
                0.5 * x * (1.0 + (ROOT * (x + 0.044_715 * x * x * x)).tanh())
            }
            Self::Relu => x.max(0.0),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Tanh => x.tanh(),
        }
    }
}

/// Applies `f` to every element, in place.
pub fn activate(x: &mut [f32], f: Activation) {
    x.par_chunks_mut(PIECE).for_each(|x| x.iter_mut().for_each(|x| *x = f.of(*x)));
}

/// `gate = f(gate) ⊙ up`, in place.
pub fn gate(gate: &mut [f32], up: &[f32], f: Activation) {
    let pieces = gate.par_chunks_mut(PIECE).zip(up.par_chunks(PIECE));
    pieces.for_each(|(gate, up)| gate.iter_mut().zip(up).for_each(|(g, u)| *g = f.of(*g) * u));
}
