//! Steps of few tokens, captured once for each padded number of them and launched again and again.

mod kept;
mod kind;
mod numbers;
mod prepared;

use std::sync::Arc;

use candle_core::Result;
use repertoire_kernels::cuda::Gpu;

use crate::adapter::SiteMap;
use crate::device::gpu_error;
use crate::model::{Batch, Body, Output, Row};

use super::machine::Machine;
use super::residents::Residents;
use super::step::{Answer, Choices};
use kind::Kind;
use prepared::Prepared;

/// Numbers of tokens that steps are captured for. For more, and for what a graph cannot know, launches are made one by one.
pub const SIZES: [usize; 15] = [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 192, 256];

/// With prompts beside them there are as many kinds of each size again: sizes are multiples of this.
const WITH_PROMPTS: usize = 8;

/// What prompts of a captured step may look at together, in tokens: each of theirs looks for itself.
const MOST_SEEN: usize = 32 << 10;

/// The steps of one base whose tokens are few enough to be captured: mostly rows of one token, and short prompts beside them.
pub struct CapturedSteps {
    gpu: Arc<Gpu>,
    sites: Arc<SiteMap>,
    /// By place in [`SIZES`].
    prepared: Vec<Option<Prepared>>,
}

impl CapturedSteps {
    /// Nothing prepared yet.
    pub fn new(gpu: &Arc<Gpu>, sites: &Arc<SiteMap>) -> Self {
        Self { gpu: gpu.clone(), sites: sites.clone(), prepared: SIZES.iter().map(|_| None).collect() }
    }

    /// Forgets what was captured: the store moves.
    pub fn forget(&mut self) {
        self.prepared.fill_with(|| None);
    }

    /// Launches a step, if it is one of those that are captured. The answer is of as many rows as it was padded to, and of those that
    /// ask first. `turn` is 0 or 1; the step that had the same before is over.
    #[allow(clippy::too_many_arguments, reason = "the parts of a model, borrowed one by one")]
    pub fn run(
        &mut self,
        body: &Body,
        machine: &Machine,
        residents: &Residents,
        choices: &Choices,
        batch: &Batch,
        turn: usize,
    ) -> Result<Option<Answer>> {
        let replaces = |adapter| residents.get(adapter).is_none_or(|resident| !resident.weights.is_empty());
        let replaced = batch.segments.iter().filter_map(|s| s.adapter.as_deref()).any(replaces);
        let scored = batch.rows_that_want(Output::Scores).next().is_some();
        let strange = replaced || scored || seen_by_prompts(&batch.rows) > MOST_SEEN;
        let at = place(batch.tokens.len(), batch.rows.len());
        let Some(at) = at.filter(|_| self.sites.causal && !strange && !batch.rows.is_empty()) else { return Ok(None) };
        let prepared = match &mut self.prepared[at] {
            Some(prepared) => prepared,
            none => none.insert(Prepared::new(&self.gpu, &self.sites, SIZES[at]).map_err(gpu_error)?),
        };
        let kind = Kind::of(batch, SIZES[at]);
        prepared.write(machine, residents, &self.sites, batch, kind, turn)?;
        prepared.run(body, machine, residents, choices, kind).map(Some)
    }
}

/// Where in [`SIZES`] a step of so many tokens of so many rows has its place, if it has one.
fn place(tokens: usize, rows: usize) -> Option<usize> {
    let fits = |&size: &usize| size >= tokens && (tokens == rows || size.is_multiple_of(WITH_PROMPTS));
    SIZES.iter().position(fits)
}

/// How many tokens those of prompts look at.
fn seen_by_prompts(rows: &[Row]) -> usize {
    let prompts = rows.iter().filter(|row| row.tokens.len() > 1);
    prompts.map(|row| row.tokens.len() * (row.start + row.tokens.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_padded_to_few_sizes() {
        let size = |tokens, rows| place(tokens, rows).map(|at| SIZES[at]);
        assert_eq!([1, 3, 33, 256].map(|rows| size(rows, rows)), [1, 4, 40, 256].map(Some));
        assert_eq!(
            [(2, 1), (4, 1), (35, 32), (159, 32)].map(|(tokens, rows)| size(tokens, rows)),
            [8, 8, 40, 192].map(Some)
        );
        assert_eq!((size(257, 257), size(257, 3)), (None, None));
    }

    #[test]
    fn prompts_look_at_what_is_before_each_of_their_tokens() {
        let row = |start, tokens| Row {
            tokens: 0..tokens,
            start,
            blocks: vec![],
            adapter: None,
            output: Output::Choice,
            draw: None,
            follows: None,
        };
        assert_eq!(seen_by_prompts(&[row(500, 1), row(0, 10), row(90, 10)]), 10 * 10 + 10 * 100);
    }
}
