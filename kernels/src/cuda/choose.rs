//! The greedy choice of each row of logits.

use super::gpu::{Arg, instance};
use super::sources::CHOOSE;
use super::{Dtype, Gpu, GpuError, Slice};

/// Logits of a part; as in `cuda/choose.cuh`.
const PART: usize = 8192;

/// What was chosen.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// The highest logit's place, the first of equals: u32 `[rows]`.
    pub tokens: &'a Slice,
    /// The logarithm of its probability: f32 `[rows]`.
    pub logprobs: &'a Slice,
    /// The logarithm of the sum of exp of all logits: f32 `[rows]`.
    pub logsumexps: &'a Slice,
}

/// How many f32 numbers of scratch memory [`choose`] takes.
pub fn choose_scratch_len(rows: usize, vocabulary: usize) -> usize {
    rows * vocabulary.div_ceil(PART) * 3
}

/// Chooses the highest of each row of logits [rows, vocabulary]. A row's numbers do not depend on other rows.
///
/// # Panics
/// If a shape or a dtype does not fit, or there is no logit.
pub fn choose(
    gpu: &Gpu,
    logits: &Slice,
    vocabulary: usize,
    choice: &Choice<'_>,
    scratch: &Slice,
) -> Result<(), GpuError> {
    let rows = choice.tokens.len();
    assert!((1..1 << 30).contains(&vocabulary), "a vocabulary of {vocabulary}: from 1 to 2³⁰ - 1");
    assert!(rows < 1 << 16, "{rows} rows: fewer than 65,536 are needed");
    assert_eq!(logits.len(), rows * vocabulary, "logits are [rows, vocabulary]");
    assert_eq!(choice.tokens.dtype(), Dtype::U32, "tokens are counted");
    for numbers in [choice.logprobs, choice.logsumexps] {
        assert_eq!((numbers.dtype(), numbers.len()), (Dtype::F32, rows), "logarithms are [rows]");
    }
    assert_eq!(scratch.dtype(), Dtype::F32, "scratch is f32");
    assert!(scratch.len() >= choose_scratch_len(rows, vocabulary), "scratch is as long as it has to be");
    let name = instance!("choose_parts", logits.dtype());
    let parts = vocabulary.div_ceil(PART) as u32;
    let args = [Arg::slice(logits), Arg::slice(scratch), Arg::U32(vocabulary as u32)];
    // SAFETY: these are the arguments of all three; shapes were checked.
    unsafe { gpu.launch(&CHOOSE, name, (parts, rows as u32, 1), 256, 0, &args) }?;
    let Choice { tokens, logprobs, logsumexps } = choice;
    let [scratch, tokens, logprobs, logsumexps] = [scratch, tokens, logprobs, logsumexps].map(Arg::slice);
    let args = [scratch, tokens, logprobs, logsumexps, Arg::U32(parts)];
    // SAFETY: these are choose_rows' arguments; shapes were checked.
    unsafe { gpu.launch(&CHOOSE, "choose_rows", (rows as u32, 1, 1), 32, 0, &args) }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::cuda::checks::{DTYPES, gpu, pick, poisoned, random};

    #[test]
    #[ignore = "needs a GPU"]
    fn choices_are_right() {
        let gpu = gpu();
        let mut rng = StdRng::seed_from_u64(4);
        for _ in 0..60 {
            let vocabulary = pick(&mut rng, &[1, 2, 31, 255, 8191, 8192, 8193, 49152, 128_256, 262_144]);
            let rows = if vocabulary > 10_000 { rng.random_range(1..8) } else { rng.random_range(1..70) };
            let dtype = pick(&mut rng, &DTYPES);
            // With 16 bits, many logits are equal: the first of them has to win.
            let size = pick(&mut rng, &[0.1, 1.0, 20.0]);
            let logits = random(&gpu, &mut rng, dtype, rows * vocabulary, size);
            let tokens = Slice::of_u32(&gpu, &vec![u32::MAX; rows]).expect("memory");
            let logprobs = poisoned(&gpu, Dtype::F32, rows);
            let logsumexps = poisoned(&gpu, Dtype::F32, rows);
            let scratch = poisoned(&gpu, Dtype::F32, choose_scratch_len(rows, vocabulary));
            let choice = Choice { tokens: &tokens, logprobs: &logprobs, logsumexps: &logsumexps };
            choose(&gpu, &logits.slice, vocabulary, &choice, &scratch).expect("a launch");
            let tokens = tokens.to_u32().expect("numbers");
            let logprobs = logprobs.to_f32().expect("numbers");
            let logsumexps = logsumexps.to_f32().expect("numbers");
            for (row, logits) in logits.values.chunks_exact(vocabulary).enumerate() {
                let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let first = logits.iter().position(|&logit| logit == highest).expect("a logit");
                let log = logits.iter().map(|logit| (logit - highest).exp()).sum::<f64>().ln();
                let what = format!("{dtype:?} row {row} of {rows} of {vocabulary}");
                assert_eq!(tokens[row] as usize, first, "{what}");
                assert!(
                    (f64::from(logprobs[row]) + log).abs() < 1e-5 * (1.0 + log),
                    "{what}: {}, not {log}",
                    logprobs[row]
                );
                let sum = highest + log;
                assert!((f64::from(logsumexps[row]) - sum).abs() < 1e-5 * (1.0 + sum.abs()), "{what}: not {sum}");
            }
        }
    }
}
