//! Where the smallest set of tokens ends that holds a share of the probability.

use repertoire_kernels::cpu::{exp, max, sum_exp};

use super::largest::{descending, largest};

/// How many of the best are looked at first; a nucleus is rarely larger.
const FEW: usize = 64;
/// Buckets of equal width in score, over the 88 nats below the best that have a weight in f32.
const BUCKETS: usize = 4096;
const BUCKETS_PER_NAT: f32 = 46.5;

/// The index of the last score to keep for `top_p`, in descending order of scores, at least the `keep`-th; `None`: keep all.
///
/// `TopPLogitsWarper` adds probabilities from the smallest up and drops those with a sum of at most `1 - top_p`. That
/// sum is the total less what stands before in descending order, so nothing below the edge needs sorting. Among equal
/// scores at the edge torch's choice is not defined; here the lowest indices stay.
pub(crate) fn last(scores: &[f32], top_p: f32, keep: usize) -> Option<usize> {
    let max = max(scores);
    if !max.is_finite() {
        return None;
    }
    let share = Share { total: sum_exp(scores, max), dropped: (1.0 - as_written(top_p)) as f32 };
    let weight = |at: usize| f64::from(exp(scores[at] - max));

    let mut before = 0.0;
    let mut last = None;
    let best = largest(scores, keep.max(FEW));
    for (rank, &at) in best.iter().enumerate() {
        if rank >= keep && share.is_held(before) {
            return last;
        }
        before += weight(at);
        last = Some(at);
    }
    if best.len() < keep.max(FEW) {
        return last;
    }

    // A flat distribution: find the bucket with the edge, and sort that alone.
    let bucket = |score: f32| (((max - score) * BUCKETS_PER_NAT) as i32 as usize).min(BUCKETS - 1);
    let mut masses = vec![0.0; BUCKETS];
    for (at, &score) in scores.iter().enumerate() {
        masses[bucket(score)] += weight(at);
    }
    let mut before = 0.0;
    let edge = masses.iter().position(|mass| {
        let passed = share.is_held(before + mass);
        before += if passed { 0.0 } else { *mass };
        passed
    })?;
    let mut within: Vec<usize> = (0..scores.len()).filter(|&at| bucket(scores[at]) == edge).collect();
    within.sort_by(|&a, &b| descending(scores[a], scores[b]));
    let mut last = None;
    for at in within {
        if share.is_held(before) {
            break;
        }
        before += weight(at);
        last = Some(at);
    }
    last
}

/// What the nucleus must hold.
struct Share {
    total: f64,
    dropped: f32,
}

impl Share {
    /// Whether the weights so far hold enough, so that what follows is dropped.
    fn is_held(&self, weights: f64) -> bool {
        ((self.total - weights) / self.total) as f32 <= self.dropped
    }
}

/// The decimal that was written for an f32: transformers computes `1 - top_p` from that, in f64, and it decides ties.
fn as_written(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_a_walk_down_the_sorted_scores(
            scores in prop::collection::vec(-4000i32..4000, 1..600),
            width in prop::sample::select(vec![0.001f32, 0.01, 1.0]),
            top_p in 0.0f32..1.0,
            keep in 1usize..4,
        ) {
            let scores: Vec<f32> = scores.into_iter().map(|score| score as f32 / 1000.0 * width).collect();
            let max = max(&scores);
            let total: f64 = scores.iter().map(|score| f64::from(exp(score - max))).sum();
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let mut before = 0.0;
            let mut expected = order[0];
            let mut clear = true;
            for (rank, &at) in order.iter().enumerate() {
                let left = 1.0 - before / total;
                // Rounding may go either way where the sum meets the share.
                clear &= (left - (1.0 - f64::from(top_p))).abs() > 1e-6 || rank < keep;
                if rank >= keep && left <= 1.0 - f64::from(top_p) {
                    break;
                }
                before += f64::from(exp(scores[at] - max));
                expected = at;
            }
            if clear {
                let all = *order.last().unwrap();
                prop_assert_eq!(last(&scores, top_p, keep).unwrap_or(all), expected);
            }
        }
    }

    #[test]
    fn equal_scores_leave_the_lowest_indices() {
        assert_eq!(last(&[1.0; 1000], 0.25, 1), Some(249));
        assert_eq!(last(&[1.0; 8], 0.25, 1), Some(1));
        assert_eq!(last(&[1.0; 8], 0.0, 3), Some(2));
    }
}
