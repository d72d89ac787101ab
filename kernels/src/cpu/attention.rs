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
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the features were just detected.
        return unsafe { attend_avx2(query, spans, scale, scores, out) };
    }
    attend_plain(query, spans, scale, scores, out);
}

/// The same code, compiled for wider vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn attend_avx2<'a, S>(query: &[f32], spans: S, scale: f32, scores: &mut Vec<f32>, out: &mut [f32])
where
    S: Iterator<Item = Span<'a>> + Clone,
{
    attend_plain(query, spans, scale, scores, out);
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
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = exp(*score - max));
    let sum: f32 = scores.iter().sum();
    out.fill(0.0);
    let mut weights = scores.iter();
    for span in spans {
        for (token, weight) in (0..span.tokens).zip(&mut weights) {
            super::vector::scale_add(out, &span.values[token * span.stride..][..dim], *weight / sum);
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
    fn how_tokens_are_cut_into_spans_does_not_change_a_bit() {
        let keys: Vec<f32> = (0..40).map(|i| (i as f32 * 0.7).sin()).collect();
        let values: Vec<f32> = (0..40).map(|i| (i as f32 * 1.3).cos()).collect();
        let query = [0.2, -0.4, 0.9, 0.1];
        let whole = [Span { keys: &keys, values: &values, tokens: 10, stride: 4 }];
        let cut = [
            Span { keys: &keys[..12], values: &values[..12], tokens: 3, stride: 4 },
            Span { keys: &keys[12..], values: &values[12..], tokens: 7, stride: 4 },
        ];
        let (mut a, mut b) = ([0.0; 4], [0.0; 4]);
        attend(&query, whole.into_iter(), 0.5, &mut a);
        attend(&query, cut.into_iter(), 0.5, &mut b);
        assert_eq!(a, b);
    }
}
