//! What tests of kernels share: random numbers, memory nobody has written, how close a result has to be, how long it takes.

use std::sync::Arc;
use std::time::Instant;

use half::{bf16, f16};
pub use rand::{Rng, SeedableRng, rngs::StdRng};

pub(super) use super::memory::to_bytes;
use super::{Dtype, Gpu, GpuError, Graph, Slice};

/// Dtypes of activations.
pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// The first GPU.
pub fn gpu() -> Arc<Gpu> {
    Gpu::open(0).expect("a GPU")
}

/// Random numbers, the same each time.
pub fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// One of a few.
pub fn pick<T: Copy>(rng: &mut StdRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

/// Numbers between -1 and 1.
pub fn uniform(rng: &mut StdRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Numbers on the GPU, and what they are.
pub struct Numbers {
    pub slice: Slice,
    pub values: Vec<f64>,
}

/// Random numbers between -size and size, rounded to `dtype`.
pub fn random(gpu: &Arc<Gpu>, rng: &mut StdRng, dtype: Dtype, len: usize, size: f32) -> Numbers {
    let numbers: Vec<f32> = (0..len).map(|_| rng.random_range(-size..size)).collect();
    Numbers { slice: Slice::of(gpu, dtype, &numbers).expect("memory"), values: wide(&round(dtype, &numbers)) }
}

/// What numbers are once stored as `dtype`.
pub fn round(dtype: Dtype, numbers: &[f32]) -> Vec<f32> {
    let round = |x: f32| match dtype {
        Dtype::F32 | Dtype::U32 => x,
        Dtype::F16 => f16::from_f32(x).to_f32(),
        Dtype::Bf16 => bf16::from_f32(x).to_f32(),
    };
    numbers.iter().map(|&x| round(x)).collect()
}

/// The same in f64.
pub fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}

/// Memory full of what is not a number: nothing may read it, or all must overwrite it.
pub fn poisoned(gpu: &Arc<Gpu>, dtype: Dtype, count: usize) -> Slice {
    Slice::of(gpu, dtype, &vec![f32::NAN; count]).expect("memory")
}

/// The largest ‖out - exact‖ / ‖exact‖ of numbers that are rounded to `dtype` at the end.
pub fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 1e-5,
        Dtype::F16 => 2e-3,
        Dtype::Bf16 => 1e-2,
        Dtype::U32 => 0.0,
    }
}

/// The same for numbers of `own` dtype made of numbers of `dtype`. Products of 16-bit numbers are exact, but tensor cores cut
/// their f32 sums instead of rounding them.
pub fn tolerance_of_sums(dtype: Dtype, own: Dtype) -> f64 {
    if own == Dtype::F32 && dtype != Dtype::F32 { 5e-5 } else { tolerance(own) }
}

/// Whether every number was written and is what it should be, within the dtype's tolerance.
pub fn assert_close(out: &Slice, exact: &[f64], what: &str) {
    assert_close_as(out, exact, out.dtype(), what);
}

/// The same with another dtype's tolerance.
pub fn assert_close_as(out: &Slice, exact: &[f64], dtype: Dtype, what: &str) {
    assert_within(&out.to_f32().expect("copy"), exact, tolerance(dtype), what);
}

/// Whether numbers are what they should be: all together within the tolerance, and each alone within ten times that, so that
/// one wrong number among many is seen.
pub fn assert_within(out: &[f32], exact: &[f64], tolerance: f64, what: &str) {
    assert_eq!(out.len(), exact.len(), "{what}");
    let square = exact.iter().map(|x| x * x).sum::<f64>().max(1e-12);
    let usual = (square / exact.len() as f64).sqrt();
    let mut error = 0.0;
    for (i, (out, exact)) in out.iter().zip(exact).enumerate() {
        let difference = (f64::from(*out) - exact).abs();
        // Not `>`: this way a NaN fails.
        assert!(difference <= 10.0 * tolerance * (exact.abs() + usual), "{what}: number {i} is {out} and not {exact}");
        error += difference * difference;
    }
    assert!(error.sqrt() <= tolerance * square.sqrt(), "{what}: error {:e}", (error / square).sqrt());
}

/// Checks that numbers are the same to the bit.
pub fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    let different = found.iter().zip(expected).position(|(x, y)| x.to_bits() != y.to_bits());
    assert_eq!((found.len(), different), (expected.len(), None), "{what}");
}

/// Seconds of one of `count` calls in a row on the GPU, in one graph, so that nothing waits for the processor.
pub fn seconds(gpu: &Arc<Gpu>, count: usize, mut call: impl FnMut(usize) -> Result<(), GpuError>) -> f64 {
    // Outside a graph first: it may have to choose an algorithm.
    call(0).expect("a launch");
    let graph = Graph::capture(gpu, || (0..count).try_for_each(call)).expect("a graph");
    graph.launch().expect("a launch");
    gpu.synchronize().expect("an end");
    let start = Instant::now();
    graph.launch().expect("a launch");
    gpu.synchronize().expect("an end");
    start.elapsed().as_secs_f64() / count as f64
}

/// `softmax(query · keysᵀ · scale) · values`, token by token, in f64.
pub fn attention<'a>(query: &[f32], tokens: impl Iterator<Item = (&'a [f32], &'a [f32])>, scale: f32) -> Vec<f64> {
    let dot = |key: &[f32]| query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>();
    let scored: Vec<(f64, &[f32])> = tokens.map(|(key, value)| (dot(key) * f64::from(scale), value)).collect();
    let largest = scored.iter().map(|(score, _)| *score).fold(f64::NEG_INFINITY, f64::max);
    let mut out = vec![0.0; query.len()];
    let mut total = 0.0;
    for (score, value) in scored {
        let weight = (score - largest).exp();
        total += weight;
        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * f64::from(*value));
    }
    out.iter_mut().for_each(|out| *out /= total);
    out
}
