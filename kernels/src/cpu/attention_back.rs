//! What attention's outputs say of queries, keys and values, a head at a time.

use super::attention::softmax;
use super::product::vectorised;
use super::vector::dot;
use super::{Matrix, multiply};

/// Queries that are looked at together: their scores are [queries, tokens] numbers.
const TOGETHER: usize = 128;

/// One head's matrices, each a line after the other.
#[derive(Clone, Copy, Debug)]
pub struct HeadOf<'a> {
    /// [queries, dim].
    pub queries: &'a [f32],
    /// [tokens, dim].
    pub keys: &'a [f32],
    /// [tokens, dim].
    pub values: &'a [f32],
    pub dim: usize,
    /// How many tokens the first query sees. Each further one sees one more, if `causal`, else as many.
    pub seen: usize,
    pub causal: bool,
    pub scale: f32,
}

/// What becomes of their gradients.
#[derive(Debug)]
pub struct AttentionGradients {
    /// [queries, dim].
    pub queries: Vec<f32>,
    /// [tokens, dim].
    pub keys: Vec<f32>,
    /// [tokens, dim].
    pub values: Vec<f32>,
}

/// The gradients of a head's queries, keys and values from that of its outputs, `d` [queries, dim].
///
/// # Panics
/// If a shape does not fit.
pub fn attend_back(head: &HeadOf<'_>, d: &[f32]) -> AttentionGradients {
    let HeadOf { queries, keys, values, dim, scale, .. } = *head;
    let (count, tokens) = (queries.len() / dim, keys.len() / dim);
    assert_eq!(d.len(), queries.len(), "d is [queries, dim]");
    let mut gradients = AttentionGradients {
        queries: vec![0.0; queries.len()],
        keys: vec![0.0; keys.len()],
        values: vec![0.0; values.len()],
    };
    let (all_keys, all_values) = (Matrix::new(keys, tokens, dim), Matrix::new(values, tokens, dim));
    for from in (0..count).step_by(TOGETHER) {
        let some = TOGETHER.min(count - from);
        let lines = from * dim..(from + some) * dim;
        let (q, d) = (Matrix::new(&queries[lines.clone()], some, dim), Matrix::new(&d[lines.clone()], some, dim));
        // softmax(q·Kᵀ), and what its outputs' gradient is of it.
        let mut weights = vec![0.0; some * tokens];
        multiply(q, all_keys.across(), 0.0, scale, &mut weights);
        let mut slopes = vec![0.0; some * tokens];
        multiply(d, all_values.across(), 0.0, 1.0, &mut slopes);
        vectorised(|| {
            let lines = weights.chunks_exact_mut(tokens).zip(slopes.chunks_exact_mut(tokens)).enumerate();
            for (i, (weights, slopes)) in lines {
                let seen = (head.seen + if head.causal { from + i } else { 0 }).min(tokens);
                softmax(&mut weights[..seen]);
                weights[seen..].fill(0.0);
                let all = dot(weights, slopes);
                slopes.iter_mut().zip(&*weights).for_each(|(s, w)| *s = w * (*s - all));
            }
        });
        let (weights, slopes) = (Matrix::new(&weights, some, tokens), Matrix::new(&slopes, some, tokens));
        multiply(weights.across(), d, 1.0, 1.0, &mut gradients.values);
        multiply(slopes.across(), q, 1.0, scale, &mut gradients.keys);
        multiply(slopes, all_keys, 0.0, scale, &mut gradients.queries[lines]);
    }
    gradients
}

#[cfg(test)]
mod tests {
    use super::super::differences::check;
    use super::super::{Span, attend};
    use super::*;

    #[test]
    fn it_agrees_with_differences() {
        const DIM: usize = 4;
        // Queries, tokens, how many the first one sees.
        for (count, tokens, seen, causal) in [(3, 3, 1, true), (3, 5, 3, true), (2, 4, 4, false), (1, 1, 1, true)] {
            let cut = |x: &[f32]| {
                let (queries, rest) = x.split_at(count * DIM);
                let (keys, values) = rest.split_at(tokens * DIM);
                [queries.to_vec(), keys.to_vec(), values.to_vec()]
            };
            let forward = |x: &[f32]| {
                let [queries, keys, values] = cut(x);
                let each = queries.chunks(DIM).enumerate().flat_map(|(i, query)| {
                    let tokens = seen + if causal { i } else { 0 };
                    let span = Span { keys: &keys, values: &values, tokens, stride: DIM };
                    let mut out = [0.0; DIM];
                    attend(query, [span].into_iter(), 0.7, &mut out);
                    out
                });
                each.collect()
            };
            check((count + 2 * tokens) * DIM, forward, |x, d| {
                let [queries, keys, values] = cut(x);
                let (queries, keys, values) = (&queries, &keys, &values);
                let head = HeadOf { queries, keys, values, dim: DIM, seen, causal, scale: 0.7 };
                let AttentionGradients { queries, keys, values } = attend_back(&head, &d);
                [queries, keys, values].concat()
            });
        }
    }

    #[test]
    fn many_queries_are_looked_at_in_parts() {
        let (count, dim) = (2 * TOGETHER + 7, 4);
        let numbers = |f: f32| -> Vec<f32> { (0..count * dim).map(|i| (i as f32 * f).sin()).collect() };
        let (queries, keys, values, d) = (numbers(0.3), numbers(0.7), numbers(1.1), numbers(0.9));
        let of = |queries, seen| HeadOf { queries, keys: &keys, values: &values, dim, seen, causal: true, scale: 0.5 };
        let all = attend_back(&of(&queries, 1), &d);
        let mut sum = vec![0.0; keys.len()];
        for (i, (query, d)) in queries.chunks(dim).zip(d.chunks(dim)).enumerate() {
            let one = attend_back(&of(query, i + 1), d);
            assert!(one.queries.iter().zip(&all.queries[i * dim..]).all(|(x, y)| (x - y).abs() < 1e-5));
            sum.iter_mut().zip(&one.keys).for_each(|(sum, x)| *sum += x);
        }
        assert!(sum.iter().zip(&all.keys).all(|(x, y)| (x - y).abs() < 1e-4));
    }
}
