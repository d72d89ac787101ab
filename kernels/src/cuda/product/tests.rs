use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cuda::checks::{
    DTYPES, assert_same, assert_within, gpu, pick, poisoned, random, seconds, tolerance_of_sums,
};

fn scratch(gpu: &std::sync::Arc<Gpu>, lines: usize, inputs: usize, outputs: usize) -> ProductScratch {
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
                let call = Product { x, weight, bias: None, y, pitch: outputs, store, lines, inputs, outputs };
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
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(3);
    // Far more than any L2 holds.
    let all = 600 << 20;
    let some: Vec<u8> = random_bytes(&mut rng, 1 << 20);
    let weights = Slice::new(&gpu, Dtype::Bf16, all / 2).expect("memory");
    weights.write(&some.repeat(all >> 20)).expect("a copy");
    println!("{:>6} {:>6} {:>5} {:>9} {:>9}", "in", "out", "lines", "us", "GB/s");
    for (inputs, outputs) in SHAPES {
        let copies = all / 2 / (inputs * outputs);
        for lines in [1, 8, 32, 64] {
            let x = random(&gpu, &mut rng, Dtype::Bf16, lines * inputs, 1.0).slice;
            let y = poisoned(&gpu, Dtype::Bf16, lines * outputs);
            let scratch = scratch(&gpu, lines, inputs, outputs);
            let mut next = 0;
            let seconds = seconds(&gpu, 100, |_| {
                next = (next + 1) % copies;
                let weight = &weights.part(next * inputs * outputs..(next + 1) * inputs * outputs);
                let (x, y, store) = (&x, &y, Store::Write);
                let call = Product { x, weight, bias: None, y, pitch: outputs, store, lines, inputs, outputs };
                product(&gpu, &call, &scratch)
            });
            let rate = (inputs * outputs * 2) as f64 / seconds / 1e9;
            println!("{inputs:>6} {outputs:>6} {lines:>5} {:>9.2} {rate:>9.0}", seconds * 1e6);
        }
    }
}

/// bf16 numbers of no great size.
fn random_bytes(rng: &mut StdRng, count: usize) -> Vec<u8> {
    (0..count / 2).flat_map(|_| half::bf16::from_f32(rng.random_range(-1.0..1.0)).to_le_bytes()).collect()
}
