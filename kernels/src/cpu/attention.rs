//! Scaled dot-product attention of one query over keys and values that lie in several places.

use std::cell::RefCell;

use super::functions::exp;

/// Neighbouring tokens of one head's keys and values: token `t` starts at `t · stride` in both.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
    pub tokens: usize,
    pub stride: usize,
}

thread_local! {
    /// A thread's memory for one score per token.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out = softmax(query·Kᵀ · scale)·V` over all tokens of `spans`, in their order. `query` and `out` are `[head_dim]`;
/// with no token at all, `out` is zero.
pub fn attend<'a, S>(query: &[f32], spans: S, scale: f32, out: &mut [f32])
where
    S: Iterator<Item = Span<'a>> + Clone,
{
    SCORES.with_borrow_mut(|scores| attend_with(query, spans, scale, scores, out));
}

fn attend_with<'a, S>(query: &[f32], spans: S, scale: f32, scores: &mut Vec<f32>, out: &mut [f32])
where
    S: Iterator<Item = Span<'a>> + Clone,
{
    #[cfg(target_arch = "x86_64")]
    if super::product::wide() {
        // SAFETY: the features were just detected.
        return unsafe { attend_avx2(query, spans, scale, scores, out) };
    }
    attend_plain(query, spans, scale, scores, out);
}

/// The same with wide vectors. Scores of eight tokens are computed at once; values are added up in registers, a few columns at
/// a time. Either way a number's sum has one order, however tokens are cut into spans.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn attend_avx2<'a, S>(query: &[f32], spans: S, scale: f32, scores: &mut Vec<f32>, out: &mut [f32])
where
    S: Iterator<Item = Span<'a>> + Clone,
{
    use std::arch::x86_64::*;

    use super::dots::{dot_eight, dot_one};
    const COLUMNS: usize = 32;
    let dim = query.len();
    scores.clear();
    for Span { keys, values, tokens, stride } in spans.clone() {
        if tokens == 0 {
            continue;
        }
        let end = (tokens - 1) * stride + dim;
        assert!(keys.len() >= end && values.len() >= end, "a span holds its tokens");
        let mut token = 0;
        while token + 8 <= tokens {
            let mut eight = [0f32; 8];
            // SAFETY: the span was checked; the caller vouches for the CPU.
            unsafe {
                let dots = dot_eight(query, keys.as_ptr().add(token * stride), stride);
                _mm256_storeu_ps(eight.as_mut_ptr(), _mm256_mul_ps(dots, _mm256_set1_ps(scale)));
            }
            scores.extend_from_slice(&eight);
            token += 8;
        }
        for token in token..tokens {
            // SAFETY: as above.
            scores.push(unsafe { dot_one(query, keys.as_ptr().add(token * stride)) } * scale);
        }
    }
    softmax(scores);

    let mut column = 0;
    while column + COLUMNS <= dim {
        let mut sums = [_mm256_setzero_ps(); COLUMNS / 8];
        let mut weights = scores.iter();
        for span in spans.clone() {
            for (token, weight) in (0..span.tokens).zip(&mut weights) {
                let weight = _mm256_set1_ps(*weight);
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the span was checked, and the columns lie inside its rows.
                    let value = unsafe { span.values.as_ptr().add(token * span.stride + column + 8 * i) };
                    // SAFETY: as above.
                    *sum = _mm256_fmadd_ps(weight, unsafe { _mm256_loadu_ps(value) }, *sum);
                }
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            // SAFETY: the slice has COLUMNS numbers.
            unsafe { _mm256_storeu_ps(out[column..column + COLUMNS].as_mut_ptr().add(8 * i), sum) };
        }
        column += COLUMNS;
    }
    add_values(spans, scores, column, out);
}

#[inline(always)]
fn attend_plain<'a, S>(query: &[f32], spans: S, scale: f32, scores: &mut Vec<f32>, out: &mut [f32])
where
    S: Iterator<Item = Span<'a>> + Clone,
{
    let dim = query.len();
    scores.clear();
    for span in spans.clone() {
        for token in 0..span.tokens {
            scores.push(super::vector::dot(query, &span.keys[token * span.stride..][..dim]) * scale);
        }
    }
    softmax(scores);
    add_values(spans, scores, 0, out);
}

/// `softmax`, in place. Largest and sum go by eight lanes, as a single chain of additions would take longer than the dot products.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32]) {
    let mut largest = [f32::NEG_INFINITY; 8];
    let (eights, rest) = scores.as_chunks::<8>();
    for eight in eights {
        (0..8).for_each(|lane| largest[lane] = if eight[lane] > largest[lane] { eight[lane] } else { largest[lane] });
    }
    let max = largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = exp(*score - max));
    let mut sums = [0f32; 8];
    let (eights, rest) = scores.as_chunks::<8>();
    for eight in eights {
        (0..8).for_each(|lane| sums[lane] += eight[lane]);
    }
    let sum: f32 = sums.iter().chain(rest).sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// Columns `from..` of `out` become the values' sum, each with its weight.
#[inline(always)]
fn add_values<'a, S>(spans: S, weights: &[f32], from: usize, out: &mut [f32])
where
    S: Iterator<Item = Span<'a>> + Clone,
{
    let out = &mut out[from..];
    if out.is_empty() {
        return;
    }
    out.fill(0.0);
    let mut weights = weights.iter();
    for span in spans {
        for (token, weight) in (0..span.tokens).zip(&mut weights) {
            super::vector::scale_add(out, &span.values[token * span.stride + from..][..out.len()], *weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_gives_its_own_value() {
        let span = Span { keys: &[0.3, -2.0], values: &[5.0, 7.0], tokens: 1, stride: 2 };
        let mut out = [0.0; 2];
        attend(&[1.0, 1.0], [span].into_iter(), 1.0, &mut out);
        assert_eq!(out, [5.0, 7.0]);
    }

    #[test]
    fn it_agrees_with_double_precision() {
        let numbers = |n: usize, f: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * f).sin()).collect() };
        for (dim, tokens) in [(64, 37), (64, 8), (40, 19), (8, 100), (20, 3), (96, 16)] {
            let (query, keys, values) = (numbers(dim, 0.3), numbers(dim * tokens, 0.7), numbers(dim * tokens, 1.1));
            let score = |t: usize| -> f64 {
                (0..dim).map(|d| f64::from(query[d]) * f64::from(keys[t * dim + d])).sum::<f64>() * 0.2
            };
            let weights: Vec<f64> = (0..tokens).map(|t| score(t).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut out = vec![f32::NAN; dim];
            let span = Span { keys: &keys, values: &values, tokens, stride: dim };
            attend(&query, [span].into_iter(), 0.2, &mut out);
            for (d, out) in out.iter().enumerate() {
                let exact = (0..tokens).map(|t| weights[t] / total * f64::from(values[t * dim + d])).sum::<f64>();
                assert!((exact - f64::from(*out)).abs() < 1e-5, "{exact} {out}, dim {dim}, {tokens} tokens");
            }
        }
    }

    #[test]
    fn how_tokens_are_cut_into_spans_does_not_change_a_bit() {
        const DIM: usize = 44;
        let keys: Vec<f32> = (0..10 * DIM).map(|i| (i as f32 * 0.7).sin()).collect();
        let values: Vec<f32> = (0..10 * DIM).map(|i| (i as f32 * 1.3).cos()).collect();
        let query: [f32; DIM] = std::array::from_fn(|i| (i as f32).sin());
        let whole = [Span { keys: &keys, values: &values, tokens: 10, stride: DIM }];
        let cut = [
            Span { keys: &keys[..3 * DIM], values: &values[..3 * DIM], tokens: 3, stride: DIM },
            Span { keys: &keys[3 * DIM..], values: &values[3 * DIM..], tokens: 7, stride: DIM },
        ];
        let (mut a, mut b) = ([0.0; DIM], [0.0; DIM]);
        attend(&query, whole.into_iter(), 0.5, &mut a);
        attend(&query, cut.into_iter(), 0.5, &mut b);
        assert_eq!(a, b);
    }
}
