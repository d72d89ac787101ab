//! Partial selection: the few largest of many numbers.

use std::cmp::Ordering;

/// Indices of the `count` largest values, largest first, the lowest index first among equals. Leaves out `-inf` (banned) and NaN.
///
/// One pass over `values` with a buffer of twice `count`: what cannot be among the largest is dropped by one comparison.
pub(crate) fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let count = count.min(values.len());
    if count == 0 {
        return Vec::new();
    }
    let capacity = (2 * count).max(64);
    let mut kept: Vec<usize> = Vec::with_capacity(capacity);
    let mut threshold = f32::NEG_INFINITY;
    let order = |a: &usize, b: &usize| descending(values[*a], values[*b]).then(a.cmp(b));
    for (at, &value) in values.iter().enumerate() {
        // A later equal loses to an earlier one, so only a larger value enters.
        if value > threshold {
            kept.push(at);
            if kept.len() == capacity {
                let (_, &mut last, _) = kept.select_nth_unstable_by(count - 1, order);
                threshold = values[last];
                kept.truncate(count);
            }
        }
    }
    kept.sort_unstable_by(order);
    kept.truncate(count);
    kept
}

/// Larger first; a total order, so that nothing panics on NaN.
pub(crate) fn descending(a: f32, b: f32) -> Ordering {
    // Adding zero turns -0.0 into 0.0: the two are equal scores.
    (b + 0.0).total_cmp(&(a + 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_a_full_stable_sort(values in prop::collection::vec(-20i32..20, 0..400), count in 0usize..120) {
            let values: Vec<f32> = values.into_iter().map(|v| if v == -20 { f32::NEG_INFINITY } else { v as f32 / 4.0 }).collect();
            let mut sorted: Vec<usize> = (0..values.len()).filter(|&at| values[at] > f32::NEG_INFINITY).collect();
            sorted.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap());
            sorted.truncate(count);
            prop_assert_eq!(largest(&values, count), sorted);
        }
    }

    #[test]
    fn plus_and_minus_zero_are_equal() {
        assert_eq!(largest(&[-0.0, 0.0], 2), [0, 1]);
    }
}
