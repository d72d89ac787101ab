//! Answers of a beam search, on the way and complete.

use std::sync::Arc;

use crate::engine::FinishReason;
use crate::engine::sampler::Choice;

/// A complete answer of a beam search.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Its tokens, with an end-of-text token if it ended by one.
    pub choices: Vec<Choice>,
    pub reason: FinishReason,
    /// Sum of the processed log-probabilities (penalties, and warpers when sampling).
    pub total: f32,
    /// `total / length^length_penalty`, by which answers are ranked: transformers' `sequences_scores`.
    pub score: f32,
}

/// The tokens of a beam, and what is reported about each.
#[derive(Clone, Debug, Default)]
pub(super) struct Path {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    /// Shared by all beams that came by here.
    tops: Vec<Arc<[(u32, f32)]>>,
}

impl Path {
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// This path and one token more.
    pub(super) fn then(&self, token: u32, logprob: f32, top: &Arc<[(u32, f32)]>) -> Self {
        let mut path = self.clone();
        path.tokens.push(token);
        path.logprobs.push(logprob);
        path.tops.push(Arc::clone(top));
        path
    }

    pub(super) fn into_choices(self) -> Vec<Choice> {
        let reported = self.logprobs.into_iter().zip(self.tops);
        let choices = self.tokens.into_iter().zip(reported);
        choices.map(|(id, (logprob, top))| Choice { id, logprob, top: top.to_vec() }).collect()
    }
}
