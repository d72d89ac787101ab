use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cuda::checks::{
    DTYPES, assert_same, assert_within, gpu, pick, poisoned, random, round, seconds, tolerance_of_sums,
};
use crate::cuda::{Matrix, Norm, gate, norm};

/// Those of gated products.
const SMALL_DTYPES: [Dtype; 2] = [Dtype::F16, Dtype::Bf16];

pub(in super::super) const ACTIVATIONS: [Activation; 5] =
    [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu, Activation::Tanh];

pub(in super::super) fn scratch(
    gpu: &std::sync::Arc<Gpu>,
    lines: usize,
    inputs: usize,
    outputs: usize,
) -> ProductScratch {
    let mut scratch = ProductScratch::new(gpu, 0).expect("memory");
    scratch.partials = poisoned(gpu, Dtype::F32, product_scratch_len(gpu, lines, inputs, outputs));
    scratch
}

#[test]
#[ignore = "needs a GPU"]
fn products_are_right() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(1);
    let mut cases = Vec::new();
    for _ in 0..200 {
        let inputs = pick(&mut rng, &[8, 24, 40, 256, 264, 520, 576, 768, 1536, 2056]);
        let outputs = pick(&mut rng, &[1, 7, 16, 17, 63, 64, 65, 100, 333, 576, 1000]);
        cases.push((rng.random_range(1..=FEW_LINES), inputs, outputs));
    }
    // Nothing split; wide; deep.
    cases.extend([(1, 72, 8000), (12, 72, 8000), (30, 72, 8000), (64, 72, 8001)]);
    cases.extend([(5, 576, 2500), (16, 576, 2500), (32, 576, 5000), (50, 576, 5000), (33, 14336, 40), (2, 14336, 65)]);
    for (lines, inputs, outputs) in cases {
        let dtype = pick(&mut rng, &DTYPES);
        let inputs = if dtype == Dtype::F32 { inputs - rng.random_range(0..4) } else { inputs };
        check(&gpu, &mut rng, dtype, (lines, inputs, outputs));
    }
}

/// One product of random numbers, into any kind of y.
fn check(gpu: &std::sync::Arc<Gpu>, rng: &mut StdRng, dtype: Dtype, (lines, inputs, outputs): (usize, usize, usize)) {
    let what = format!("{dtype:?} {lines} x {inputs} -> {outputs}");
    let x = random(gpu, rng, dtype, lines * inputs, 1.0);
    let weight = random(gpu, rng, dtype, outputs * inputs, 1.0);
    let bias = rng.random_bool(0.5).then(|| random(gpu, rng, dtype, outputs, 4.0));
    let store = pick(rng, &[Store::Write, Store::Add]);
    let own = if store == Store::Add { Dtype::F32 } else { pick(rng, &[dtype, Dtype::F32]) };
    let pitch = outputs + pick(rng, &[0, 0, 5]);
    let before = random(gpu, rng, own, lines * pitch, 4.0);
    let y = if store == Store::Add { before.slice.clone() } else { poisoned(gpu, own, lines * pitch) };
    let call = Product {
        x: &x.slice,
        weight: &weight.slice,
        bias: bias.as_ref().map(|bias| &bias.slice),
        y: &y,
        pitch,
        store,
        lines,
        inputs,
        outputs,
        ahead: Some(&weight.slice),
    };
    product(gpu, &call, &scratch(gpu, lines, inputs, outputs)).expect("a launch");
    let all = y.to_f32().expect("numbers");
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for line in 0..lines {
        for column in 0..outputs {
            let x = &x.values[line * inputs..(line + 1) * inputs];
            let w = &weight.values[column * inputs..(column + 1) * inputs];
            let old = if store == Store::Add { before.values[line * pitch + column] } else { 0.0 };
            let bias = bias.as_ref().map_or(0.0, |bias| bias.values[column]);
            expected.push(x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + bias + old);
            found.push(all[line * pitch + column]);
        }
        for column in outputs..pitch {
            let (at, old) = (line * pitch + column, before.values[line * pitch + column] as f32);
            assert!(if store == Store::Add { all[at] == old } else { all[at].is_nan() }, "{what}: beside y");
        }
    }
    assert_within(&found, &expected, tolerance_of_sums(dtype, own), &what);
}

#[test]
#[ignore = "needs a GPU"]
fn a_line_is_the_same_alone_and_among_others() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(2);
    for (inputs, outputs) in [(576, 576), (2048, 2048), (4096, 4096), (4096, 512), (64, 8001), (1536, 576), (40, 9)] {
        for dtype in DTYPES {
            let x = random(&gpu, &mut rng, dtype, FEW_LINES * inputs, 1.0).slice;
            let weight = random(&gpu, &mut rng, dtype, outputs * inputs, 1.0).slice;
            let lines_from = |first: usize, lines: usize| {
                let y = poisoned(&gpu, Dtype::F32, lines * outputs);
                let x = &x.part(first * inputs..(first + lines) * inputs);
                let (weight, y, store) = (&weight, &y, Store::Write);
                let call =
                    Product { x, weight, bias: None, y, pitch: outputs, store, lines, inputs, outputs, ahead: None };
                product(&gpu, &call, &scratch(&gpu, lines, inputs, outputs)).expect("a launch");
                y.to_f32().expect("numbers")
            };
            let all = lines_from(0, FEW_LINES);
            for lines in [1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64] {
                let first = rng.random_range(0..=FEW_LINES - lines);
                let what = format!("{dtype:?} {inputs} -> {outputs}, lines {first}.. of {lines}");
                assert_same(&lines_from(first, lines), &all[first * outputs..(first + lines) * outputs], &what);
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gated_products_are_right() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(4);
    let mut cases = Vec::new();
    for _ in 0..200 {
        let inputs = pick(&mut rng, &[8, 24, 40, 256, 264, 520, 576, 768, 1536, 2056]);
        let outputs = pick(&mut rng, &[1, 3, 8, 9, 16, 31, 32, 33, 72, 100, 333, 500]);
        // Enough that not all gates lie where a GELU is nearly 0, of which f32 knows few digits.
        let lines = rng.random_range(32_usize.div_ceil(outputs)..=FEW_LINES);
        cases.push((lines, inputs, outputs));
    }
    // Nothing split; wide; deep.
    cases.extend([(1, 72, 8192), (12, 72, 8000), (30, 72, 8190), (64, 72, 4001)]);
    cases.extend([(1, 576, 1536), (8, 576, 1536), (16, 576, 1536), (32, 576, 1536), (50, 576, 1536)]);
    cases.extend([(33, 14336, 40), (2, 14336, 65)]);
    for (i, case) in cases.into_iter().enumerate() {
        let dtype = pick(&mut rng, &SMALL_DTYPES);
        check_gated(&gpu, &mut rng, (dtype, ACTIVATIONS[i % 5]), case);
    }
}

/// One gated product of random numbers.
fn check_gated(
    gpu: &std::sync::Arc<Gpu>,
    rng: &mut StdRng,
    (dtype, activation): (Dtype, Activation),
    (lines, inputs, outputs): (usize, usize, usize),
) {
    let what = format!("{dtype:?} {activation:?} {lines} x {inputs} -> {outputs}");
    let x = random(gpu, rng, dtype, lines * inputs, 1.0);
    // Gates shall be of a size where activations bend.
    let weight = random(gpu, rng, dtype, 2 * outputs * inputs, 6.0 / (inputs as f32).sqrt());
    let bias = rng.random_bool(0.5).then(|| random(gpu, rng, dtype, 2 * outputs, 2.0));
    // What lies behind y stays.
    let y = poisoned(gpu, dtype, lines * outputs + 8);
    let call = GatedProduct {
        x: &x.slice,
        weight: &weight.slice,
        bias: bias.as_ref().map(|bias| &bias.slice),
        activation,
        y: &y,
        lines,
        inputs,
        outputs,
        ahead: Some(&weight.slice),
    };
    gated_product(gpu, &call, &scratch(gpu, lines, inputs, 2 * outputs)).expect("a launch");
    let all = y.to_f32().expect("numbers");
    let (found, behind) = all.split_at(lines * outputs);
    assert!(behind.iter().all(|x| x.is_nan()), "{what}: behind y");
    let mut expected = Vec::new();
    for x in x.values.chunks(inputs) {
        let sum = |row: usize| {
            let w = &weight.values[row * inputs..(row + 1) * inputs];
            let bias = bias.as_ref().map_or(0.0, |bias| bias.values[row]);
            x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + bias
        };
        expected.extend((0..outputs).map(|column| exact(sum(column), activation) * sum(outputs + column)));
    }
    assert_within(found, &expected, tolerance_of_sums(dtype, dtype), &what);
}

pub(in super::super) fn exact(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
        }
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gated_lines_are_the_same_alone_and_made_of_the_sums_of_products() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(5);
    for (inputs, outputs) in [(576, 1536), (2048, 4096), (4096, 250), (64, 8001), (40, 9), (576, 1)] {
        for dtype in SMALL_DTYPES {
            let x = random(&gpu, &mut rng, dtype, FEW_LINES * inputs, 1.0).slice;
            let weight = random(&gpu, &mut rng, dtype, 2 * outputs * inputs, 6.0 / (inputs as f32).sqrt()).slice;
            let bias = random(&gpu, &mut rng, dtype, 2 * outputs, 2.0).slice;
            let lines_from = |activation: Activation, first: usize, lines: usize| {
                let y = poisoned(&gpu, dtype, lines * outputs);
                let x = &x.part(first * inputs..(first + lines) * inputs);
                let (weight, bias, y) = (&weight, Some(&bias), &y);
                let call = GatedProduct { x, weight, bias, activation, y, lines, inputs, outputs, ahead: None };
                gated_product(&gpu, &call, &scratch(&gpu, lines, inputs, 2 * outputs)).expect("a launch");
                y.to_f32().expect("numbers")
            };
            for lines in [1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64] {
                let activation = pick(&mut rng, &ACTIVATIONS);
                let all = lines_from(activation, 0, FEW_LINES);
                let first = rng.random_range(0..=FEW_LINES - lines);
                let what = format!("{dtype:?} {activation:?} {inputs} -> {outputs}, lines {first}.. of {lines}");
                let expected = &all[first * outputs..(first + lines) * outputs];
                assert_same(&lines_from(activation, first, lines), expected, &what);
            }

            // With a RELU nothing but the sums is inexact.
            let (lines, width) = (FEW_LINES, 2 * outputs);
            let y = poisoned(&gpu, Dtype::F32, lines * width);
            let call = Product {
                x: &x,
                weight: &weight,
                bias: Some(&bias),
                y: &y,
                pitch: width,
                store: Store::Write,
                lines,
                inputs,
                outputs: width,
                ahead: None,
            };
            product(&gpu, &call, &scratch(&gpu, lines, inputs, width)).expect("a launch");
            let sums = y.to_f32().expect("numbers");
            let expected = sums.chunks(width).flat_map(|line| {
                let (gates, ups) = line.split_at(outputs);
                gates.iter().zip(ups).map(|(gate, up)| gate.max(0.0) * up)
            });
            let expected = round(dtype, &expected.collect::<Vec<_>>());
            let what = format!("{dtype:?} {inputs} -> {outputs}");
            assert_same(&lines_from(Activation::Relu, 0, lines), &expected, &what);
        }
    }
}

#[test]
#[ignore = "needs a GPU; prints timings"]
fn product_bandwidth() {
    const SHAPES: [(usize, usize); 12] = [
        (4096, 6144),
        (4096, 4096),
        (4096, 28672),
        (14336, 4096),
        (2048, 3072),
        (2048, 2048),
        (2048, 16384),
        (8192, 2048),
        (576, 960),
        (576, 576),
        (576, 3072),
        (1536, 576),
    ];
    // Those of the two matrices of a gated feed-forward.
    const GATED: [(usize, usize); 3] = [(4096, 28672), (2048, 16384), (576, 3072)];
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(3);
    // Far more than any L2 holds.
    let all = 600 << 20;
    let some: Vec<u8> = random_bytes(&mut rng, 1 << 20);
    let weights = Slice::new(&gpu, Dtype::Bf16, all / 2).expect("memory");
    weights.write(&some.repeat(all >> 20)).expect("a copy");
    println!(
        "{:>6} {:>6} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "in", "out", "lines", "us", "GB/s", "+ gate us", "gated us", "GB/s"
    );
    for (inputs, outputs) in SHAPES {
        let copies = all / 2 / (inputs * outputs);
        for lines in [1, 8, 32, 64] {
            let x = random(&gpu, &mut rng, Dtype::Bf16, lines * inputs, 1.0).slice;
            let y = poisoned(&gpu, Dtype::Bf16, lines * outputs);
            let scratch = scratch(&gpu, lines, inputs, outputs);
            let mut next = 0;
            let mut weight = || {
                next = (next + 1) % copies;
                weights.part(next * inputs * outputs..(next + 1) * inputs * outputs)
            };
            let mut plain = || {
                let (x, y, weight, store) = (&x, &y, &weight(), Store::Write);
                let call =
                    Product { x, weight, bias: None, y, pitch: outputs, store, lines, inputs, outputs, ahead: None };
                product(&gpu, &call, &scratch)
            };
            let rate = |seconds: f64| (inputs * outputs * 2) as f64 / seconds / 1e9;
            let alone = seconds(&gpu, 100, |_| plain());
            print!("{inputs:>6} {outputs:>6} {lines:>5} {:>9.2} {:>9.0}", alone * 1e6, rate(alone));
            if GATED.contains(&(inputs, outputs)) {
                let (activation, half) = (Activation::Silu, outputs / 2);
                let out = poisoned(&gpu, Dtype::Bf16, lines * half);
                let both = Matrix::new(&y, outputs);
                let then_gate = seconds(&gpu, 100, |_| {
                    plain()?;
                    let (left, right) = (both.columns(0..half), both.columns(half..outputs));
                    gate(&gpu, left, right, activation, Matrix::new(&out, half))
                });
                let gated = seconds(&gpu, 100, |_| {
                    let (x, weight, y) = (&x, &weight(), &out);
                    let call = GatedProduct {
                        x,
                        weight,
                        bias: None,
                        activation,
                        y,
                        lines,
                        inputs,
                        outputs: half,
                        ahead: None,
                    };
                    gated_product(&gpu, &call, &scratch)
                });
                print!(" {:>9.2} {:>9.2} {:>9.0}", then_gate * 1e6, gated * 1e6, rate(gated));
            }
            println!();
        }
    }
}

/// bf16 numbers of no great size.
fn random_bytes(rng: &mut StdRng, count: usize) -> Vec<u8> {
    (0..count / 2).flat_map(|_| half::bf16::from_f32(rng.random_range(-1.0..1.0)).to_le_bytes()).collect()
}

/// A decode layer's products with norms between, each of which brings nearer what the next reads, or not.
#[test]
#[ignore = "needs a GPU; prints timings"]
fn ahead_bandwidth() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(6);
    let dtype = Dtype::Bf16;
    println!("{:>6} {:>6} {:>6} {:>12} {:>12}", "hidden", "ffn", "MiB", "alone us", "ahead us");
    for (hidden, qkv, ffn) in [(576, 960, 1536), (2048, 3072, 8192), (4096, 6144, 14336)] {
        let layer = hidden * (qkv + hidden + 3 * ffn);
        let all: usize = (layer * 4).max(600 << 20) / 2;
        let some: Vec<u8> = random_bytes(&mut rng, 1 << 20);
        let weights = Slice::new(&gpu, dtype, (all * 2).next_multiple_of(1 << 20) / 2).expect("memory");
        weights.write(&some.repeat((weights.len() * 2) >> 20)).expect("a copy");
        let sum = random(&gpu, &mut rng, Dtype::F32, hidden, 1.0).slice;
        let norm_weight = random(&gpu, &mut rng, dtype, hidden, 1.0).slice;
        let [x, wide, inner] = [hidden, qkv, ffn].map(|len| random(&gpu, &mut rng, dtype, len, 1.0).slice);
        let mut scratch = scratch(&gpu, 1, 256, 64);
        scratch.partials = poisoned(&gpu, Dtype::F32, 1 << 20);
        for most in [2, 4, 6, 8] {
            let time = |most: usize| {
                seconds(&gpu, 32, |i| {
                    let layer_at = i % (all / layer);
                    let first = layer_at * layer;
                    let mut at = first;
                    let mut part = |rows: usize, columns: usize| {
                        at += rows * columns;
                        weights.part(at - rows * columns..at)
                    };
                    let parts = [part(qkv, hidden), part(hidden, hidden), part(2 * ffn, hidden), part(hidden, ffn)];
                    let next = |i: usize| {
                        let after = (layer_at + 1) % (all / layer) * layer;
                        let next = if i < 4 { parts[i].clone() } else { weights.part(after..after + qkv * hidden) };
                        (most > 0).then(|| next.part(0..next.len().min(most << 19)))
                    };
                    let plain = |i: usize, x: &Slice, y: &Slice, inputs: usize, outputs: usize| {
                        let (weight, ahead, store) = (&parts[i], next(i + 1), Store::Write);
                        let ahead = ahead.as_ref();
                        let (lines, pitch, bias) = (1, outputs, None);
                        let call = Product { x, weight, bias, y, pitch, store, lines, inputs, outputs, ahead };
                        product(&gpu, &call, &scratch)
                    };
                    let normed = || {
                        let (weight, eps) = (&norm_weight, 1e-5);
                        norm(&gpu, Matrix::new(&sum, hidden), Norm::Rms { weight, eps }, Matrix::new(&x, hidden))
                    };
                    normed()?;
                    plain(0, &x, &wide, hidden, qkv)?;
                    normed()?;
                    normed()?;
                    plain(1, &x, &x, hidden, hidden)?;
                    normed()?;
                    let (weight, activation, ahead) = (&parts[2], Activation::Silu, next(3));
                    let (y, ahead, lines, inputs, outputs) = (&inner, ahead.as_ref(), 1, hidden, ffn);
                    let call = GatedProduct { x: &x, weight, bias: None, activation, y, lines, inputs, outputs, ahead };
                    gated_product(&gpu, &call, &scratch)?;
                    plain(3, &inner, &x, ffn, hidden)
                }) * 1e6
            };
            let (alone, ahead) = (time(0), time(most));
            println!("{hidden:>6} {ffn:>6} {most:>6} {alone:>12.2} {ahead:>12.2}");
        }
    }
}
