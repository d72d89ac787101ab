//! Normalisations over the last dimension.

use rayon::prelude::*;

use super::floats::each_type;
use super::vector::dot;
use super::{Floats, Weight};

/// Elements below which threads cost more than they save.
const SERIAL: usize = 1 << 14;

/// `x / √(mean(x²) + eps) ⊙ weight` for each row of `x` [.., weight.len()], in place. arXiv 1910.07467.
pub fn rms_norm(x: &mut [f32], weight: Floats<'_>, eps: f32) {
    each_type!(weight, |weight| rms(x, weight, eps));
}

fn rms<W: Weight>(x: &mut [f32], weight: &[W], eps: f32) {
    rows(x, weight.len(), |x| {
        let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
        for (x, w) in x.iter_mut().zip(weight) {
            *x = *x * scale * w.widen();
        }
    });
}

/// `(x - mean) / √(var + eps) ⊙ weight + bias` for each row of `x` [.., weight.len()], in place. arXiv 1607.06450.
pub fn layer_norm(x: &mut [f32], weight: Floats<'_>, bias: Floats<'_>, eps: f32) {
    each_type!(weight, |weight| each_type!(bias, |bias| layer(x, weight, bias, eps)));
}

fn layer<W: Weight, B: Weight>(x: &mut [f32], weight: &[W], bias: &[B], eps: f32) {
    rows(x, weight.len(), |x| {
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        x.iter_mut().for_each(|x| *x -= mean);
        let scale = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
        for ((x, w), b) in x.iter_mut().zip(weight).zip(bias) {
            *x = *x * scale * w.widen() + b.widen();
        }
    });
}

fn rows(x: &mut [f32], width: usize, f: impl Fn(&mut [f32]) + Sync + Send) {
    if x.len() < SERIAL {
        x.chunks_exact_mut(width).for_each(f);
    } else {
        x.par_chunks_exact_mut(width).for_each(f);
    }
}
