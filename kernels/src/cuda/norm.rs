//! Normalisations over the last dimension, after something was added to the residual where asked.

use super::gpu::{Arg, count, instance};
use super::sources::NORM;
use super::{Dtype, Gpu, GpuError, Matrix, Slice};

/// The widest line: 1024 threads that keep 32 numbers each.
const WIDEST: usize = 32 << 10;

/// A norm of width `n`; weight and bias are `[n]`, of the dtype that comes out.
#[derive(Clone, Copy)]
pub enum Norm<'a> {
    /// `x / √(mean(x²) + eps) ⊙ weight`. arXiv 1910.07467.
    Rms { weight: &'a Slice, eps: f32 },
    /// `(x - mean) / √(var + eps) ⊙ weight + bias`. arXiv 1607.06450.
    Layer { weight: &'a Slice, bias: &'a Slice, eps: f32 },
}

/// What [`add_norm`] leaves in the residual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// The sum, as norms before a layer's parts have it.
    Sum,
    /// The normalised sum, in f32, as norms after a layer's parts have it.
    Normed,
}

/// `out` [lines, k · n] = norm of each group of `n` numbers of `x` [lines, k · n]. `x` is f32, or of `out`'s dtype: then it may
/// be `out`.
pub fn norm(gpu: &Gpu, x: Matrix<'_>, norm: Norm<'_>, out: Matrix<'_>) -> Result<(), GpuError> {
    let dtype = out.dtype();
    let name = match x.dtype() {
        Dtype::F32 => instance!("norm", dtype),
        own if own == dtype => instance!("norm_same", dtype),
        other => panic!("a norm of {other:?} gives no {dtype:?}"),
    };
    launch(gpu, name, x, None, norm, 0, out)
}

/// Adds `added` to the residual `x`, both [lines, n], if there is any; then `out` [lines, n] = norm of it. `x` is f32; `added` is
/// f32 or of `out`'s dtype.
pub fn add_norm(
    gpu: &Gpu,
    x: Matrix<'_>,
    added: Option<Matrix<'_>>,
    norm: Norm<'_>,
    back: Back,
    out: Matrix<'_>,
) -> Result<(), GpuError> {
    let dtype = out.dtype();
    assert_eq!(x.dtype(), Dtype::F32, "the residual is f32");
    let name = match added.map(|added| added.dtype()) {
        None => instance!("norm", dtype),
        Some(own) if own == dtype => instance!("norm", dtype),
        Some(Dtype::F32) => instance!("norm_wide", dtype),
        Some(other) => panic!("{other:?} is added and {dtype:?} comes out"),
    };
    let back = match back {
        Back::Sum => 1,
        Back::Normed => 2,
    };
    launch(gpu, name, x, added, norm, back, out)
}

fn launch(
    gpu: &Gpu,
    name: &'static str,
    x: Matrix<'_>,
    added: Option<Matrix<'_>>,
    norm: Norm<'_>,
    back: u32,
    out: Matrix<'_>,
) -> Result<(), GpuError> {
    let (weight, bias, eps) = match norm {
        Norm::Rms { weight, eps } => (weight, None, eps),
        Norm::Layer { weight, bias, eps } => (weight, Some(bias), eps),
    };
    let (dtype, lines, width, n) = (out.dtype(), x.lines(), x.width(), weight.len());
    assert!(n > 0 && n <= WIDEST && width.is_multiple_of(n), "lines of {width} by norms of {n}");
    assert!(out.is(dtype, lines, width), "a norm keeps its shape");
    assert!(added.is_none_or(|added| (added.lines(), added.width()) == (lines, width)), "what is added has x's shape");
    assert!(weight.dtype() == dtype && bias.is_none_or(|bias| bias.dtype() == dtype && bias.len() == n), "weights");
    let parts = width / n;
    let threads = count(n.div_ceil(8).next_multiple_of(32).min(1024));
    let args = [
        x.pointer(),
        x.stride(),
        added.map_or(Arg::Null, |added| added.pointer()),
        added.map_or(Arg::U32(0), |added| added.stride()),
        Arg::slice(weight),
        Arg::optional(bias),
        out.pointer(),
        out.stride(),
        Arg::count(n),
        Arg::count(parts),
        Arg::F32(eps),
        Arg::U32(back),
    ];
    // SAFETY: shapes and dtypes were checked; parts of a line are touched by their block alone.
    unsafe { gpu.launch(&NORM, name, (count(lines * parts), 1, 1), threads, 0, &args) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::checks::*;

    /// The norm of a line in f64.
    fn exact(x: &[f64], weight: &[f32], bias: Option<&[f32]>, eps: f32) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = if bias.is_some() { x.iter().sum::<f64>() / n } else { 0.0 };
        let square = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        let scale = 1.0 / (square + f64::from(eps)).sqrt();
        let bias = |i: usize| bias.map_or(0.0, |bias| f64::from(bias[i]));
        x.iter().enumerate().map(|(i, x)| (x - mean) * scale * f64::from(weight[i]) + bias(i)).collect()
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn residuals_are_added_to_and_normed() {
        let (gpu, mut rng) = (gpu(), rng(1));
        let widths = [1, 7, 64, 96, 100, 255, 768, 896, 1024, 4096, 5120, 8191, 8192, 16384, 32768];
        for (case, (dtype, n)) in DTYPES.into_iter().flat_map(|dtype| widths.map(|n| (dtype, n))).enumerate() {
            let lines = rng.random_range(1..if n > 5000 { 5 } else { 70 });
            let wide = rng.random_bool(0.3);
            let added_dtype = if wide { Dtype::F32 } else { dtype };
            let layer = case % 2 == 1;
            let x = uniform(&mut rng, lines * n);
            // One row for all lines, now and then.
            let repeated = case % 4 == 3;
            let added = round(added_dtype, &uniform(&mut rng, if repeated { n } else { lines * n }));
            let weight = round(dtype, &uniform(&mut rng, n));
            let bias = round(dtype, &uniform(&mut rng, n));
            let adds = case % 5 != 4;
            let back = if case % 3 == 2 { Back::Normed } else { Back::Sum };
            let on_gpu = |dtype, x: &[f32]| Slice::of(&gpu, dtype, x).expect("memory");
            let (device_x, device_added) = (on_gpu(Dtype::F32, &x), on_gpu(added_dtype, &added));
            let (device_weight, device_bias) = (on_gpu(dtype, &weight), on_gpu(dtype, &bias));
            let out = poisoned(&gpu, dtype, lines * n);
            let eps = 1e-5;
            let norm = match layer {
                true => Norm::Layer { weight: &device_weight, bias: &device_bias, eps },
                false => Norm::Rms { weight: &device_weight, eps },
            };
            let all_added = match repeated {
                true => Matrix::repeated(&device_added, lines),
                false => Matrix::new(&device_added, n),
            };
            let added_matrix = adds.then_some(all_added);
            add_norm(&gpu, Matrix::new(&device_x, n), added_matrix, norm, back, Matrix::new(&out, n)).expect("launch");
            let sum: Vec<f64> = x
                .iter()
                .zip(added.iter().cycle())
                .map(|(x, y)| if adds { f64::from(x + y) } else { f64::from(*x) })
                .collect();
            let bias = layer.then_some(&bias[..]);
            let normed: Vec<f64> = sum.chunks(n).flat_map(|line| exact(line, &weight, bias, eps)).collect();
            let what = format!(
                "{dtype:?} [{lines}, {n}] layer {layer} added {adds} {added_dtype:?} repeated {repeated} {back:?}"
            );
            assert_close(&out, &normed, &what);
            assert_close(&device_x, if back == Back::Sum { &sum } else { &normed }, &what);
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn heads_inside_a_fused_matrix_are_normed_in_place() {
        let (gpu, mut rng) = (gpu(), rng(2));
        for (dtype, dim) in DTYPES.into_iter().flat_map(|dtype| [32, 64, 80, 96, 128, 256, 33].map(|dim| (dtype, dim)))
        {
            let (lines, heads, others) = (rng.random_range(1..70), rng.random_range(1..9), rng.random_range(1..5));
            let width = (heads + others) * dim;
            let x = round(dtype, &uniform(&mut rng, lines * width));
            let weight = round(dtype, &uniform(&mut rng, dim));
            let device = Slice::of(&gpu, dtype, &x).expect("memory");
            let device_weight = Slice::of(&gpu, dtype, &weight).expect("memory");
            let part = Matrix::new(&device, width).columns(others * dim..width);
            norm(&gpu, part, Norm::Rms { weight: &device_weight, eps: 1e-6 }, part).expect("launch");
            let exact = x.chunks(dim).enumerate().flat_map(|(i, head)| {
                let head = wide(head);
                if i % (width / dim) < others { head } else { exact(&head, &weight, None, 1e-6) }
            });
            let what = format!("{dtype:?} [{lines}, {others} + {heads}, {dim}]");
            assert_close(&device, &exact.collect::<Vec<_>>(), &what);
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn a_residual_is_normed_and_stays() {
        let (gpu, mut rng) = (gpu(), rng(3));
        for dtype in DTYPES {
            let (lines, n) = (13, 904);
            let x = uniform(&mut rng, lines * n);
            let weight = round(dtype, &uniform(&mut rng, n));
            let device = Slice::of(&gpu, Dtype::F32, &x).expect("memory");
            let device_weight = Slice::of(&gpu, dtype, &weight).expect("memory");
            let out = poisoned(&gpu, dtype, lines * n);
            let by = Norm::Rms { weight: &device_weight, eps: 1e-5 };
            norm(&gpu, Matrix::new(&device, n), by, Matrix::new(&out, n)).expect("launch");
            let normed: Vec<f64> = x.chunks(n).flat_map(|line| exact(&wide(line), &weight, None, 1e-5)).collect();
            assert_close(&out, &normed, "normed");
            assert_eq!(device.to_f32().expect("copy"), x);
        }
    }
}
