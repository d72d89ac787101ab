//! Draws an index in proportion to exponentiated scores.

use repertoire_kernels::cpu::{exp, max};

use super::SamplerError;

/// Weights per partial sum: a draw reads the sums, then one block.
const BLOCK: usize = 256;

/// Softmax weights, not normalised, with partial sums.
#[derive(Debug, Default)]
pub(crate) struct Weights {
    weights: Vec<f32>,
    blocks: Vec<f64>,
}

impl Weights {
    /// Takes `exp` of scores; `-inf` weighs nothing.
    pub(crate) fn fill(&mut self, scores: &[f32]) -> Result<(), SamplerError> {
        let max = max(scores);
        if max == f32::NEG_INFINITY {
            return Err(SamplerError::NothingLeft);
        }
        if !max.is_finite() {
            return Err(SamplerError::Overflow);
        }
        self.weights.clear();
        self.weights.extend(scores.iter().map(|&score| exp(score - max)));
        self.blocks.clear();
        self.blocks.extend(self.weights.chunks(BLOCK).map(sum));
        Ok(())
    }

    /// The index at which the running sum of weights passes `uniform` (in [0, 1)) of the total; `None` if nothing weighs anything.
    pub(crate) fn draw(&self, uniform: f64) -> Option<usize> {
        let total: f64 = self.blocks.iter().sum();
        let (block, left) = pass(self.blocks.iter().copied(), uniform * total)?;
        let start = block * BLOCK;
        let end = (start + BLOCK).min(self.weights.len());
        let (at, _) = pass(self.weights[start..end].iter().map(|&weight| f64::from(weight)), left)?;
        Some(start + at)
    }

    /// Takes an index out of later draws.
    pub(crate) fn remove(&mut self, at: usize) {
        self.weights[at] = 0.0;
        let start = at / BLOCK * BLOCK;
        let end = (start + BLOCK).min(self.weights.len());
        self.blocks[at / BLOCK] = sum(&self.weights[start..end]);
    }
}

fn sum(weights: &[f32]) -> f64 {
    weights.iter().map(|&weight| f64::from(weight)).sum()
}

/// Where the running sum passes `target`, and what of `target` is left there. Rounding may leave it unpassed: then the last that weighs anything.
fn pass(weights: impl Iterator<Item = f64>, mut target: f64) -> Option<(usize, f64)> {
    let mut last = None;
    for (at, weight) in weights.enumerate() {
        if weight > 0.0 {
            if target < weight {
                return Some((at, target));
            }
            last = Some((at, weight));
        }
        target -= weight;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(scores: &[f32]) -> Weights {
        let mut weights = Weights::default();
        weights.fill(scores).unwrap();
        weights
    }

    #[test]
    fn a_draw_never_lands_on_a_banned_token() {
        let mut scores = vec![f32::NEG_INFINITY; 1000];
        scores[300] = 1.0;
        scores[999] = 1.0;
        let weights = weights(&scores);
        for uniform in [0.0, 0.25, 0.49] {
            assert_eq!(weights.draw(uniform), Some(300));
        }
        for uniform in [0.5, 0.75, 1.0 - f64::EPSILON, 1.0] {
            assert_eq!(weights.draw(uniform), Some(999));
        }
    }

    #[test]
    fn what_was_removed_is_not_drawn_again() {
        let mut weights = weights(&vec![0.0; 600]);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..600 {
            let at = weights.draw(0.7).unwrap();
            weights.remove(at);
            assert!(seen.insert(at));
        }
        assert_eq!(weights.draw(0.7), None);
    }

    #[test]
    fn nothing_left_and_overflow_are_errors() {
        let mut weights = Weights::default();
        assert_eq!(weights.fill(&[f32::NEG_INFINITY; 3]), Err(SamplerError::NothingLeft));
        assert_eq!(weights.fill(&[f32::INFINITY, 0.0]), Err(SamplerError::Overflow));
        assert_eq!(weights.fill(&[f32::NAN, 0.0]), Err(SamplerError::Overflow));
    }
}
