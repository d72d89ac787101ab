//! What normalisations' outputs say of their inputs.

use rayon::prelude::*;

use super::floats::each_type;
use super::vector::dot;
use super::{Floats, Weight};

/// Elements below which threads cost more than they save.
const SERIAL: usize = 1 << 14;

/// Makes of the gradient `d` of [`super::rms_norm`]'s results that of its input `x`, both [.., weight.len()].
pub fn rms_norm_back(x: &[f32], weight: Floats<'_>, eps: f32, d: &mut [f32]) {
    each_type!(weight, |weight| rows(x, d, weight.len(), |x, d| {
        let width = x.len() as f32;
        let scale = 1.0 / (dot(x, x) / width + eps).sqrt();
        weigh(d, weight);
        let along = dot(d, x) * scale * scale * scale / width;
        d.iter_mut().zip(x).for_each(|(d, x)| *d = *d * scale - x * along);
    }));
}

/// Makes of the gradient `d` of [`super::layer_norm`]'s results that of its input `x`, both [.., weight.len()].
pub fn layer_norm_back(x: &[f32], weight: Floats<'_>, eps: f32, d: &mut [f32]) {
    each_type!(weight, |weight| rows(x, d, weight.len(), |x, d| {
        let width = x.len() as f32;
        let mean = x.iter().sum::<f32>() / width;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / width;
        let scale = 1.0 / (variance + eps).sqrt();
        weigh(d, weight);
        let all = d.iter().sum::<f32>() / width;
        let along = d.iter().zip(x).map(|(d, x)| d * (x - mean)).sum::<f32>() * scale * scale / width;
        d.iter_mut().zip(x).for_each(|(d, x)| *d = scale * (*d - all - (x - mean) * along));
    }));
}

fn weigh<W: Weight>(d: &mut [f32], weight: &[W]) {
    d.iter_mut().zip(weight).for_each(|(d, w)| *d *= w.widen());
}

fn rows(x: &[f32], d: &mut [f32], width: usize, f: impl Fn(&[f32], &mut [f32]) + Sync + Send) {
    assert_eq!(x.len(), d.len(), "a gradient for every number");
    if x.len() < SERIAL {
        x.chunks_exact(width).zip(d.chunks_exact_mut(width)).for_each(|(x, d)| f(x, d));
    } else {
        x.par_chunks_exact(width).zip(d.par_chunks_exact_mut(width)).for_each(|(x, d)| f(x, d));
    }
}

#[cfg(test)]
mod tests {
    use super::super::differences::check;
    use super::super::{layer_norm, rms_norm};
    use super::*;

    const WEIGHT: [f32; 5] = [0.5, -1.0, 2.0, 1.5, 0.1];

    #[test]
    fn rms_norms_agree_with_differences() {
        let forward = |x: &[f32]| {
            let mut y = x.to_vec();
            rms_norm(&mut y, Floats::F32(&WEIGHT), 1e-3);
            y
        };
        check(15, forward, |x, mut d| {
            rms_norm_back(x, Floats::F32(&WEIGHT), 1e-3, &mut d);
            d
        });
    }

    #[test]
    fn layer_norms_agree_with_differences() {
        let forward = |x: &[f32]| {
            let mut y = x.to_vec();
            layer_norm(&mut y, Floats::F32(&WEIGHT), Floats::F32(&[0.3; 5]), 1e-3);
            y
        };
        check(15, forward, |x, mut d| {
            layer_norm_back(x, Floats::F32(&WEIGHT), 1e-3, &mut d);
            d
        });
    }
}
