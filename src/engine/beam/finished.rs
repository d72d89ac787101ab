//! The best complete answers so far.

use super::{Hypothesis, Path};
use crate::adapter::EarlyStopping;
use crate::engine::sampler::descending;
use crate::engine::{FinishReason, Parameters};

/// The `num_beams` best complete answers, and whether better ones can still come.
///
/// transformers keeps placeholders at -1e9 where answers are missing (`_update_finished_beams`); here the list is short.
#[derive(Debug)]
pub(super) struct Finished {
    /// Best first.
    best: Vec<(Path, Ranked)>,
    num_beams: usize,
    max_length: usize,
    length_penalty: f64,
    early_stopping: EarlyStopping,
}

#[derive(Clone, Copy, Debug)]
struct Ranked {
    reason: FinishReason,
    total: f32,
    score: f32,
}

impl Finished {
    pub(super) fn new(parameters: &Parameters) -> Self {
        Self {
            best: Vec::new(),
            num_beams: parameters.num_beams.max(1),
            max_length: parameters.max_new_tokens,
            length_penalty: f64::from(parameters.length_penalty),
            early_stopping: parameters.early_stopping,
        }
    }

    /// Adds a complete answer if it is good enough; of equals the earlier stays.
    pub(super) fn offer(&mut self, path: Path, total: f32, reason: FinishReason) {
        let score = total / self.penalty(path.tokens().len());
        let after = self.best.partition_point(|(_, other)| descending(other.score, score).is_le());
        if after < self.num_beams {
            self.best.insert(after, (path, Ranked { reason, total, score }));
            self.best.truncate(self.num_beams);
        }
    }

    /// Whether the search goes on, given the best running beam: its score and length
    /// (`_check_early_stop_heuristic` and `_beam_search_has_unfinished_sequences`).
    pub(super) fn may_improve(&self, running_score: f32, length: usize) -> bool {
        let worst = match self.best.last() {
            Some((_, worst)) if self.best.len() == self.num_beams => worst.score,
            _ => return true,
        };
        let longest = match self.early_stopping {
            EarlyStopping::Eager => return false,
            EarlyStopping::Never if self.length_penalty > 0.0 => self.max_length,
            EarlyStopping::Never | EarlyStopping::Heuristic => length,
        };
        running_score / self.penalty(longest) > worst
    }

    /// The `count` best, best first.
    pub(super) fn into_best(self, count: usize) -> Vec<Hypothesis> {
        let best = self.best.into_iter().take(count);
        best.map(|(path, Ranked { reason, total, score })| Hypothesis {
            choices: path.into_choices(),
            reason,
            total,
            score,
        })
        .collect()
    }

    fn penalty(&self, length: usize) -> f32 {
        (length as f64).powf(self.length_penalty) as f32
    }
}
