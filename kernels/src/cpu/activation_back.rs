//! Slopes of the activations.

use rayon::prelude::*;

use super::Activation;
use super::functions::{erf, exp, tanh};
use super::product::vectorised;

/// Elements below which threads cost more than they save.
const PIECE: usize = 1 << 13;

/// Makes of the gradient `d` of `f(x)` that of `x`.
pub fn activate_back(x: &[f32], f: Activation, d: &mut [f32]) {
    assert_eq!(x.len(), d.len(), "a gradient for every number");
    let pieces = x.par_chunks(PIECE).zip(d.par_chunks_mut(PIECE));
    pieces.for_each(|(x, d)| vectorised(|| with_slope(f, x, |i, _, slope| d[i] *= slope)));
}

/// Of `f(gate) ⊙ up`: makes of the results' gradient `d` that of `up`, and of what `gate` holds its own gradient.
pub fn gate_back(gate: &mut [f32], up: &[f32], f: Activation, d: &mut [f32]) {
    assert!(gate.len() == d.len() && up.len() == d.len(), "a gradient for every number");
    let pieces = gate.par_chunks_mut(PIECE).zip(up.par_chunks(PIECE)).zip(d.par_chunks_mut(PIECE));
    pieces.for_each(|((gate, up), d)| {
        let before = gate.to_vec();
        vectorised(|| {
            with_slope(f, &before, |i, y, slope| {
                gate[i] = d[i] * up[i] * slope;
                d[i] *= y;
            });
        });
    });
}

/// Calls `g(i, f(x), f'(x))` for every x.
#[inline(always)]
fn with_slope(f: Activation, x: &[f32], g: impl FnMut(usize, f32, f32)) {
    match f {
        Activation::Gelu => each(x, gelu, g),
        Activation::GeluTanh => each(x, gelu_tanh, g),
        Activation::Relu => each(x, |x| (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }), g),
        Activation::Silu => each(x, silu, g),
        Activation::Tanh => each(x, |x| (tanh(x), 1.0 - tanh(x) * tanh(x)), g),
    }
}

#[inline(always)]
fn each(x: &[f32], f: impl Fn(f32) -> (f32, f32), mut g: impl FnMut(usize, f32, f32)) {
    for (i, &x) in x.iter().enumerate() {
        let (y, slope) = f(x);
        g(i, y, slope);
    }
}

#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.398_942_3; // 1/√(2π)
    let below = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    (x * below, below + x * ROOT * exp(-0.5 * x * x))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6; // √(2/π)
    let t = tanh(ROOT * (x + 0.044_715 * x * x * x));
    let inner = ROOT * (1.0 + 3.0 * 0.044_715 * x * x);
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner)
}

#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp(-x));
    (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
}

#[cfg(test)]
mod tests {
    use super::super::differences::check;
    use super::super::{activate, gate};
    use super::*;

    /// Where a relu bends, differences say nothing.
    const SMOOTH: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Tanh];

    #[test]
    fn slopes_agree_with_differences() {
        for f in SMOOTH {
            let forward = |x: &[f32]| {
                let mut y = x.to_vec();
                activate(&mut y, f);
                y
            };
            check(30, forward, |x, mut d| {
                activate_back(x, f, &mut d);
                d
            });
        }
        let mut d = [3.0, 3.0];
        activate_back(&[-1.0, 2.0], Activation::Relu, &mut d);
        assert_eq!(d, [0.0, 3.0]);
    }

    #[test]
    fn gates_agree_with_differences() {
        for f in SMOOTH {
            let forward = |x: &[f32]| {
                let mut y = x[..10].to_vec();
                gate(&mut y, &x[10..], f);
                y
            };
            check(20, forward, |x, mut d| {
                let mut gate = x[..10].to_vec();
                gate_back(&mut gate, &x[10..], f, &mut d);
                [gate, d].concat()
            });
        }
    }
}
