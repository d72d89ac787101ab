//! The tokens that may be drawn: temperature, top-k, top-p and min-p.

use repertoire_kernels::cpu::{exp, max};

use super::largest::largest;
use super::nucleus;
use crate::engine::Parameters;

/// Ids that may be drawn, ascending, and their scores. What is absent has probability zero.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    pub(crate) ids: Vec<u32>,
    pub(crate) scores: Vec<f32>,
}

impl Candidates {
    /// The whole vocabulary.
    pub(crate) fn fill(&mut self, scores: &[f32]) {
        self.ids.clear();
        self.ids.extend(0..scores.len() as u32);
        self.scores.clear();
        self.scores.extend_from_slice(scores);
    }

    /// Applies the warpers in transformers' order; top-k, top-p and min-p each leave at least `keep` candidates.
    ///
    /// A parameter at its neutral value (temperature 1, top-k 0, top-p 1, min-p 0) does nothing.
    pub(crate) fn warp(&mut self, parameters: &Parameters, keep: usize) {
        if parameters.temperature != 1.0 {
            self.scores.iter_mut().for_each(|score| *score /= parameters.temperature);
        }
        if parameters.top_k > 0 {
            self.top_k(parameters.top_k.max(keep));
        }
        if parameters.top_p < 1.0 {
            self.top_p(parameters.top_p, keep);
        }
        if parameters.min_p > 0.0 {
            self.min_p(parameters.min_p, keep);
        }
    }

    /// Keeps the `k` best and what equals the last of them (`TopKLogitsWarper`).
    fn top_k(&mut self, k: usize) {
        if k >= self.scores.len() {
            return;
        }
        let best = largest(&self.scores, k);
        // Fewer than k: the rest is banned already.
        if best.len() == k
            && let Some(&last) = best.last()
        {
            let threshold = self.scores[last];
            self.retain(|_, score| score >= threshold);
        }
    }

    /// Keeps the best whose better ones hold less than `top_p` of the probability (`TopPLogitsWarper`).
    fn top_p(&mut self, top_p: f32, keep: usize) {
        if let Some(last) = nucleus::last(&self.scores, top_p, keep) {
            let edge = self.scores[last];
            self.retain(|at, score| score > edge || (score == edge && at <= last));
        }
    }

    /// Keeps what has at least `min_p` of the best one's probability (`MinPLogitsWarper`).
    fn min_p(&mut self, min_p: f32, keep: usize) {
        let max = max(&self.scores);
        if !max.is_finite() {
            return;
        }
        let best = largest(&self.scores, keep);
        self.retain(|at, score| exp(score - max) >= min_p || best.contains(&at));
    }

    /// Keeps those of which `wanted(index, score)` says so.
    fn retain(&mut self, wanted: impl Fn(usize, f32) -> bool) {
        let mut kept = 0;
        for at in 0..self.scores.len() {
            if wanted(at, self.scores[at]) {
                self.ids[kept] = self.ids[at];
                self.scores[kept] = self.scores[at];
                kept += 1;
            }
        }
        self.ids.truncate(kept);
        self.scores.truncate(kept);
    }
}
