//! Chooses the next token of a sequence: pure arithmetic over one row of logits.
//!
//! The order is that of transformers 5.23 (`GenerationMixin._get_logits_processor`): repetition penalty, n-gram bans,
//! then the frequency and presence penalties (where transformers puts a caller's own processors), and when sampling
//! temperature, top-k, top-p, min-p. End of text is not known here.

mod candidates;
mod error;
mod history;
mod largest;
mod ngrams;
mod nucleus;
mod penalties;
mod rng;
mod weights;

pub use error::SamplerError;
pub use history::SequenceHistory;
pub use rng::SequenceRng;

pub(super) use candidates::Candidates;
pub(super) use largest::{descending, largest};
pub(super) use penalties::penalise;
pub(super) use weights::Weights;

use repertoire_kernels::cpu::LogSoftmax;

use crate::model;

use super::Parameters;

/// A chosen token id.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub id: u32,
    /// Log-softmax of the raw logits: no temperature, no penalties.
    pub logprob: f32,
    /// The `Parameters::logprobs` likeliest ids by raw logits, best first.
    pub top: Vec<(u32, f32)>,
}

/// What the model says of a sequence's next token.
#[derive(Clone, Copy, Debug)]
pub enum NextToken<'a> {
    /// Raw, `[vocab]`.
    Logits(&'a [f32]),
    /// One that the model chose: all that a sequence needs that [`asks_logits_alone`].
    Choice(model::Choice),
}

/// Whether a sequence's next token depends on its logits alone, with no more to be said of it than its log-probability.
pub fn asks_logits_alone(parameters: &Parameters, history: &SequenceHistory) -> bool {
    !history.changes_scores() && parameters.logprobs == 0
}

/// Chooses tokens; holds only scratch memory, so one serves any number of sequences in turn.
#[derive(Debug, Default)]
pub struct Sampler {
    scores: Vec<f32>,
    candidates: Candidates,
    weights: Weights,
}

impl Sampler {
    /// A sampler with empty scratch memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the token that follows `history`; see [`Sampler::choose`].
    pub fn next(
        &mut self,
        next: NextToken<'_>,
        parameters: &Parameters,
        history: &SequenceHistory,
        rng: &mut SequenceRng,
    ) -> Result<Choice, SamplerError> {
        match next {
            NextToken::Logits(logits) => self.choose(logits, parameters, history, rng),
            NextToken::Choice(model::Choice { id, logprob }) if logprob.is_finite() => {
                Ok(Choice { id, logprob, top: Vec::new() })
            }
            NextToken::Choice(model::Choice { id, .. }) => Err(SamplerError::NotFinite { token: id as usize }),
        }
    }

    /// Chooses the token that follows `history`. The caller pushes it to `history` if the sequence goes on.
    ///
    /// `logits`: `[vocab]`, raw. Takes exactly one number from `rng` when sampling and none when greedy, so a sequence's
    /// answer depends on its seed and logits alone. Errors: logits that are not finite, every token banned.
    pub fn choose(
        &mut self,
        logits: &[f32],
        parameters: &Parameters,
        history: &SequenceHistory,
        rng: &mut SequenceRng,
    ) -> Result<Choice, SamplerError> {
        let raw = LogSoftmax::of(logits)?;
        let sampling = samples(parameters);
        let id = if !sampling && !history.changes_scores() {
            raw.best() as u32
        } else {
            self.scores.clear();
            self.scores.extend_from_slice(logits);
            penalise(&mut self.scores, parameters, history);
            if sampling { self.draw(parameters, rng)? } else { best(&self.scores) }
        };
        let logprob = raw.logprob(logits[id as usize]);
        Ok(Choice { id, logprob, top: alternatives(logits, &raw, parameters.logprobs) })
    }

    fn draw(&mut self, parameters: &Parameters, rng: &mut SequenceRng) -> Result<u32, SamplerError> {
        self.candidates.fill(&self.scores);
        self.candidates.warp(parameters, 1);
        self.weights.fill(&self.candidates.scores)?;
        let at = self.weights.draw(rng.uniform()).ok_or(SamplerError::NothingLeft)?;
        Ok(self.candidates.ids[at])
    }
}

/// Whether tokens are drawn. Temperature 0 is the limit of sampling: greedy (transformers refuses it).
pub(super) fn samples(parameters: &Parameters) -> bool {
    parameters.do_sample && parameters.temperature != 0.0
}

/// The `count` likeliest ids and their log-probabilities, best first.
pub(super) fn alternatives(logits: &[f32], raw: &LogSoftmax, count: usize) -> Vec<(u32, f32)> {
    largest(logits, count).into_iter().map(|at| (at as u32, raw.logprob(logits[at]))).collect()
}

/// The largest score, the lowest id among equals; 0 when every token is banned (`torch.argmax`).
fn best(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (at, &score) in scores.iter().enumerate() {
        if score > scores[best] {
            best = at;
        }
    }
    best as u32
}

#[cfg(test)]
pub(super) mod tests;
