//! Beam search and beam sampling, as transformers 5.23 does them (`GenerationMixin._beam_search`).
//!
//! The engine computes one row of logits for each running beam; [`BeamSearch::step`] answers which beam each new beam
//! continues and with which token. Lengths are those of the answer: prompt and virtual tokens never count.

mod continuations;
mod finished;
mod hypothesis;

use std::sync::Arc;

use repertoire_kernels::cpu::LogSoftmax;

use super::sampler::{SamplerError, SequenceHistory, SequenceRng, alternatives, descending};
use super::{FinishReason, Parameters};
use continuations::{Continuation, Continuations};
use finished::Finished;
pub use hypothesis::Hypothesis;
use hypothesis::Path;

/// The search of one request.
#[derive(Debug)]
pub struct BeamSearch {
    parameters: Parameters,
    rng: SequenceRng,
    /// Best first. One at the start: transformers starts `num_beams` equal ones, all but the first at -1e9.
    running: Vec<Beam>,
    finished: Finished,
    continuations: Continuations,
}

#[derive(Clone, Debug)]
struct Beam {
    path: Path,
    history: SequenceHistory,
    score: f32,
}

/// How the running beams go on: new beam `i` continues beam `parents[i]` (the row it had in this step) with `tokens[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeamStep {
    /// A parent may stand here several times (fork its blocks) or not at all (free them).
    pub parents: Vec<usize>,
    pub tokens: Vec<u32>,
}

impl BeamSearch {
    /// A search from the end of `prompt` (virtual tokens included). `seed` matters for beam sampling only.
    ///
    /// `num_return_sequences` above `num_beams` returns `num_beams` (transformers refuses it).
    pub fn new(parameters: &Parameters, prompt: &[u32], seed: u64) -> Self {
        let history = SequenceHistory::new(parameters, prompt);
        Self {
            rng: SequenceRng::new(seed, 0),
            running: vec![Beam { path: Path::default(), history, score: 0.0 }],
            finished: Finished::new(parameters),
            continuations: Continuations::new(parameters),
            parameters: parameters.clone(),
        }
    }

    /// Takes one row of raw logits for each running beam (`[vocab]` each; at first one row, the prompt's) and goes on by one token.
    ///
    /// `finished_by` says whether running beam `.0`, continued with token `.1`, ends in a stop string. `None`: the search is
    /// over. At most `num_beams` beams go on; fewer where stop strings or bans leave fewer. Errors end the search.
    pub fn step(
        &mut self,
        rows: &[&[f32]],
        mut finished_by: impl FnMut(usize, u32) -> bool,
    ) -> Result<Option<BeamStep>, SamplerError> {
        if rows.len() != self.running.len() {
            return Err(SamplerError::Rows { expected: self.running.len(), given: rows.len() });
        }
        let raw =
            rows.iter().map(|row| LogSoftmax::of(row)).collect::<Result<Vec<_>, _>>().map_err(SamplerError::from)?;
        self.continuations.clear();
        for (beam, (row, raw)) in self.running.iter().zip(rows.iter().zip(&raw)) {
            self.continuations.add(row, raw, &self.parameters, &beam.history, beam.score);
        }
        let best = self.continuations.best(&mut self.rng)?;
        if best.is_empty() {
            return self.cut().map(|()| None);
        }
        let tops: Vec<Arc<[(u32, f32)]>> =
            rows.iter().zip(&raw).map(|(row, raw)| alternatives(row, raw, self.parameters.logprobs).into()).collect();

        let num_beams = self.parameters.num_beams.max(1);
        let mut open: Vec<Continuation> = Vec::new();
        for (rank, continuation) in best.into_iter().enumerate() {
            // The search for stop strings is not free, and what comes later is worse (unless it was drawn).
            if rank >= num_beams && open.len() >= num_beams && !self.continuations.sampling() {
                break;
            }
            let parent = &self.running[continuation.beam].path;
            match self.reason(parent.tokens().len() + 1, &continuation, &mut finished_by) {
                None => open.push(continuation),
                // What ranks lower is only there so that enough beams stay open.
                Some(reason) if rank < num_beams => {
                    let (beam, token) = (continuation.beam, continuation.token);
                    let logprob = raw[beam].logprob(rows[beam][token as usize]);
                    self.finished.offer(parent.then(token, logprob, &tops[beam]), continuation.score, reason);
                }
                Some(_) => {}
            }
        }
        // Drawn ones come in the order of drawing. The sort is stable.
        open.sort_by(|a, b| descending(a.score, b.score));
        open.truncate(num_beams);

        let next: Vec<Beam> = open
            .iter()
            .map(|continuation| {
                let (beam, token) = (continuation.beam, continuation.token);
                let parent = &self.running[beam];
                let logprob = raw[beam].logprob(rows[beam][token as usize]);
                let mut history = parent.history.clone();
                history.push(token);
                Beam { path: parent.path.then(token, logprob, &tops[beam]), history, score: continuation.score }
            })
            .collect();
        self.running = next;
        if self.is_over() {
            self.running.clear();
            return Ok(None);
        }
        Ok(Some(BeamStep {
            parents: open.iter().map(|continuation| continuation.beam).collect(),
            tokens: open.iter().map(|continuation| continuation.token).collect(),
        }))
    }

    /// The best answers, best first, once the search is over: `num_return_sequences` of them, fewer only if the
    /// vocabulary (less what is banned) has fewer.
    pub fn into_hypotheses(self) -> Vec<Hypothesis> {
        self.finished.into_best(self.parameters.num_return_sequences)
    }

    /// Why an answer of `length` tokens is complete with its newest one.
    fn reason(
        &self,
        length: usize,
        newest: &Continuation,
        finished_by: &mut impl FnMut(usize, u32) -> bool,
    ) -> Option<FinishReason> {
        if !self.parameters.ignore_eos && self.parameters.eos.contains(&newest.token) {
            Some(FinishReason::Eos)
        } else if finished_by(newest.beam, newest.token) {
            Some(FinishReason::Stop)
        } else if length >= self.parameters.max_new_tokens {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    fn is_over(&self) -> bool {
        match self.running.first() {
            None => true,
            Some(best) => !self.finished.may_improve(best.score, best.path.tokens().len()),
        }
    }

    /// Every continuation is banned: the running beams end where they are.
    fn cut(&mut self) -> Result<(), SamplerError> {
        for beam in std::mem::take(&mut self.running) {
            if beam.path.tokens().is_empty() {
                return Err(SamplerError::NothingLeft);
            }
            self.finished.offer(beam.path, beam.score, FinishReason::Length);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
