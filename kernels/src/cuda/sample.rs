//! A token drawn from each row of logits: temperature, top-k, top-p, min-p.

use super::gpu::Arg;
use super::sources::SAMPLE;
use super::{Choice, Dtype, Gpu, GpuError, Slice};

/// Logits of a part; as in `cuda/choose.cuh`.
const PART: usize = 8192;
/// Threads of the first launch; as there.
const FIRST_THREADS: u32 = 256;
/// Threads of the others; as there.
const THREADS: u32 = 512;
/// f32 numbers of scratch memory for what is known of a row: `Row` there.
const ROW_LEN: usize = 57_424 / 4;
/// The same for each of its parts.
const PART_LEN: usize = 6;

/// How a row draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Divides the logits. What is not above 0 takes the highest logit instead, as [`choose`](super::choose) does.
    pub temperature: f32,
    /// Keeps so many of the highest scores, and what equals the last of them; 0: all.
    pub top_k: usize,
    /// Then the best whose better ones hold less than this of the probability, the lowest ids first of equals; 1: all.
    pub top_p: f32,
    /// Then what has at least this much of the best one's probability; 0: all.
    pub min_p: f32,
    /// A number in [0, 1); its first 32 bits count.
    pub uniform: f64,
}

impl Draw {
    /// u32 words of a row.
    pub const WORDS: usize = 5;

    /// Takes the highest logit.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, uniform: 0.0 };

    /// Writes what [`sample`] reads: `Draw` of `cuda/sample_row.cuh`.
    ///
    /// # Panics
    /// If there are not [`WORDS`](Self::WORDS).
    pub fn write(&self, words: &mut [u32]) {
        // transformers computes 1 - top_p in f64 from the decimal that was written, and that decides ties.
        let written = |value: f32| value.to_string().parse().unwrap_or(f64::from(value));
        let dropped = if self.top_p < 1.0 { (1.0 - written(self.top_p)) as f32 } else { 0.0 };
        // The best is always kept.
        let min_p = if self.min_p > 0.0 { self.min_p.min(1.0) } else { 0.0 };
        words.copy_from_slice(&[
            self.temperature.to_bits(),
            u32::try_from(self.top_k).unwrap_or(u32::MAX),
            dropped.to_bits(),
            min_p.to_bits(),
            (self.uniform * 2f64.powi(32)) as u32,
        ]);
    }
}

/// How many f32 numbers of scratch memory [`sample`] takes.
pub fn sample_scratch_len(rows: usize, vocabulary: usize) -> usize {
    rows * (ROW_LEN + vocabulary.div_ceil(PART) * PART_LEN)
}

/// Draws a token of each row of f32 logits [rows, vocabulary] as `draws` say: u32 `[rows, Draw::WORDS]`, each written by
/// [`Draw::write`]. The log-probabilities are those of the logits as they are, whatever the temperature.
///
/// Where there is NaN or infinity among a row's logits, or all are -infinity, or its scores overflow, its log-probability is
/// NaN and its token means nothing. -infinity among others is never drawn.
///
/// A row's numbers do not depend on other rows. Launches are the same whatever `draws` say. Those rows that take the highest
/// logit get the numbers that [`choose`](super::choose) gives.
///
/// # Panics
/// If a shape or a dtype does not fit, there is no logit, or scratch does not begin at a multiple of 16 bytes.
pub fn sample(
    gpu: &Gpu,
    logits: &Slice,
    vocabulary: usize,
    draws: &Slice,
    choice: &Choice<'_>,
    scratch: &Slice,
) -> Result<(), GpuError> {
    let rows = choice.tokens.len();
    assert!((1..1 << 30).contains(&vocabulary), "a vocabulary of {vocabulary}: from 1 to 2³⁰ - 1");
    assert!(rows < 1 << 16, "{rows} rows: fewer than 65,536 are needed");
    assert_eq!((logits.dtype(), logits.len()), (Dtype::F32, rows * vocabulary), "logits are f32 [rows, vocabulary]");
    assert_eq!((draws.dtype(), draws.len()), (Dtype::U32, rows * Draw::WORDS), "draws are [rows, WORDS]");
    assert_eq!(choice.tokens.dtype(), Dtype::U32, "tokens are counted");
    for numbers in [choice.logprobs, choice.logsumexps] {
        assert_eq!((numbers.dtype(), numbers.len()), (Dtype::F32, rows), "logarithms are [rows]");
    }
    assert_eq!(scratch.dtype(), Dtype::F32, "scratch is f32");
    assert!(scratch.len() >= sample_scratch_len(rows, vocabulary), "scratch is as long as it has to be");
    assert!(scratch.aligned(), "scratch is aligned");
    let grid = (vocabulary.div_ceil(PART) as u32, rows as u32, 1);
    let length = Arg::U32(vocabulary as u32);
    let [logits, draws, scratch] = [logits, draws, scratch].map(Arg::slice);
    let [tokens, logprobs, logsumexps] = [choice.tokens, choice.logprobs, choice.logsumexps].map(Arg::slice);
    let inner = [logits, draws, scratch, length];
    let outer = [logits, draws, scratch, tokens, logprobs, logsumexps, length];
    // SAFETY: these are the arguments of each; shapes were checked.
    unsafe {
        gpu.launch(&SAMPLE, "sample_parts", grid, FIRST_THREADS, 0, &inner)?;
        gpu.launch(&SAMPLE, "sample_buckets", grid, THREADS, 0, &outer)?;
        gpu.launch(&SAMPLE, "sample_edges", grid, THREADS, 0, &inner)?;
        gpu.launch(&SAMPLE, "sample_draw", grid, THREADS, 0, &outer)
    }
}

#[cfg(test)]
mod tests;
