//! Which continuations of all beams are looked at in a step.

use repertoire_kernels::cpu::LogSoftmax;

use crate::engine::Parameters;
use crate::engine::sampler::{
    Candidates, SamplerError, SequenceHistory, SequenceRng, Weights, descending, largest, penalise, samples,
};

/// One way to go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Continuation {
    pub(super) beam: usize,
    pub(super) token: u32,
    /// The beam's score and the token's processed log-probability.
    pub(super) score: f32,
}

/// The continuations of one step (`_get_top_k_continuations`). Banned ones are never among them.
#[derive(Debug)]
pub(super) struct Continuations {
    /// Candidates that warpers must leave in each beam: one more than there are end-of-text tokens, so that something
    /// other than the end is left.
    keep: usize,
    /// How many are looked at: `keep` for each beam.
    count: usize,
    sampling: bool,
    beams: usize,
    all: Vec<Continuation>,
    row: Vec<f32>,
    candidates: Candidates,
}

impl Continuations {
    pub(super) fn new(parameters: &Parameters) -> Self {
        let ends = if parameters.ignore_eos { 0 } else { parameters.eos.len() };
        let keep = (1 + ends).max(2);
        Self {
            keep,
            count: keep.saturating_mul(parameters.num_beams.max(1)),
            sampling: samples(parameters),
            beams: 0,
            all: Vec::new(),
            row: Vec::new(),
            candidates: Candidates::default(),
        }
    }

    /// Whether continuations are drawn.
    pub(super) fn sampling(&self) -> bool {
        self.sampling
    }

    pub(super) fn clear(&mut self) {
        self.beams = 0;
        self.all.clear();
    }

    /// Adds the continuations of the next beam: penalties and warpers work on log-probabilities, not on logits.
    pub(super) fn add(
        &mut self,
        logits: &[f32],
        raw: &LogSoftmax,
        parameters: &Parameters,
        history: &SequenceHistory,
        score: f32,
    ) {
        let beam = self.beams;
        self.beams += 1;
        self.row.clear();
        self.row.extend(logits.iter().map(|&logit| raw.logprob(logit)));
        penalise(&mut self.row, parameters, history);
        if self.sampling {
            self.candidates.fill(&self.row);
            self.candidates.warp(parameters, self.keep);
            let scored = self.candidates.ids.iter().zip(&self.candidates.scores);
            let possible = scored.filter(|(_, logprob)| **logprob > f32::NEG_INFINITY);
            self.all.extend(possible.map(|(&token, &logprob)| Continuation { beam, token, score: logprob + score }));
        } else {
            // No beam can have more among the best of all than `count`.
            let best = largest(&self.row, self.count).into_iter();
            self.all.extend(best.map(|at| Continuation { beam, token: at as u32, score: self.row[at] + score }));
        }
    }

    /// The `count` best by score, best first; when sampling, as many drawn by it without replacement, in the order of drawing.
    ///
    /// Empty: everything is banned.
    pub(super) fn best(&mut self, rng: &mut SequenceRng) -> Result<Vec<Continuation>, SamplerError> {
        if self.sampling {
            return self.drawn(rng);
        }
        // Stable: of equals the lower beam, then the lower token.
        self.all.sort_by(|a, b| descending(a.score, b.score));
        Ok(self.all.iter().take(self.count).copied().collect())
    }

    fn drawn(&self, rng: &mut SequenceRng) -> Result<Vec<Continuation>, SamplerError> {
        let mut scores: Vec<f32> = self.all.iter().map(|continuation| continuation.score).collect();
        let mut drawn = Vec::new();
        let mut weights = Weights::default();
        // A weight too small for f32 is zero: once all others are drawn, the rest is weighed anew. So a low
        // temperature never leaves a search with fewer beams than it asked for.
        while drawn.len() < self.count {
            match weights.fill(&scores) {
                Err(SamplerError::NothingLeft) => break,
                filled => filled?,
            }
            while drawn.len() < self.count
                && let Some(at) = weights.draw(rng.uniform())
            {
                weights.remove(at);
                scores[at] = f32::NEG_INFINITY;
                drawn.push(self.all[at]);
            }
        }
        Ok(drawn)
    }
}
