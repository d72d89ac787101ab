//! The whole contract between engine and model: ragged rows, no padding, no globals.

use std::ops::Range;
use std::sync::Arc;

use repertoire_kernels::cuda::Draw;

use crate::adapter::Adapter;

use super::BlockId;

/// What a row wants of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nothing: a chunk of a prompt that goes on.
    Nothing,
    /// The logits after its last token.
    Logits,
    /// The token after its last: the likeliest, or a drawn one where the model draws.
    Choice,
    /// The scores of its adapter's head.
    Scores,
}

impl Output {
    /// Whether logits are computed for it.
    pub fn needs_logits(self) -> bool {
        matches!(self, Self::Logits | Self::Choice)
    }
}

/// The tokens of one sequence that this step computes.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where its tokens stand in [`Batch::tokens`].
    pub tokens: Range<usize>,
    /// Keys and values already stored for it: tokens of earlier steps and a key-value prefix. Its first token's position.
    pub start: usize,
    /// Blocks that hold its keys and values, this step's included. Empty for encoder rows.
    pub blocks: Vec<BlockId>,
    pub adapter: Option<Arc<Adapter>>,
    pub output: Output,
    /// How its choice is drawn; absent where it takes the likeliest.
    pub draw: Option<Draw>,
    /// Its one token is what the step before, which may not be finished, chooses: this one of its choices. The token that
    /// stands here means nothing.
    pub follows: Option<usize>,
}

/// Neighbouring lines of a matrix (tokens, or outputs) that belong to the same adapter.
#[derive(Clone, Debug)]
pub struct Segment {
    pub adapter: Option<Arc<Adapter>>,
    pub lines: Range<usize>,
}

/// One step's work, grouped by adapter once for all layers. Built by [`Batch::group`].
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids; `vocab + i` is virtual token `i` of the row's adapter.
    pub tokens: Vec<u32>,
    /// Position of each token.
    pub positions: Vec<u32>,
    /// Which row each token belongs to.
    pub token_rows: Vec<usize>,
    pub rows: Vec<Row>,
    /// Tokens by adapter.
    pub segments: Vec<Segment>,
}

/// A row on its way into a [`Batch`].
#[derive(Clone, Debug)]
pub struct RowSpec {
    pub adapter: Option<Arc<Adapter>>,
    /// The tokens to compute; at least one.
    pub tokens: Vec<u32>,
    /// See [`Row::start`].
    pub start: usize,
    pub blocks: Vec<BlockId>,
    pub output: Output,
    /// See [`Row::draw`].
    pub draw: Option<Draw>,
    /// See [`Row::follows`].
    pub follows: Option<usize>,
}

impl Batch {
    /// Groups rows by adapter. Also answers, for each row of the batch, its index in `specs`.
    pub fn group(specs: Vec<RowSpec>) -> (Self, Vec<usize>) {
        let mut specs: Vec<(usize, RowSpec)> = specs.into_iter().enumerate().collect();
        specs.sort_by_key(|(index, spec)| (spec.adapter.as_ref().map(|a| Arc::as_ptr(a) as usize), *index));
        let mut batch = Self::default();
        let mut order = Vec::with_capacity(specs.len());
        for (index, spec) in specs {
            let from = batch.tokens.len();
            batch.positions.extend((0..spec.tokens.len()).map(|t| (spec.start + t) as u32));
            batch.token_rows.extend(std::iter::repeat_n(batch.rows.len(), spec.tokens.len()));
            batch.tokens.extend(spec.tokens);
            let tokens = from..batch.tokens.len();
            extend_segments(&mut batch.segments, &spec.adapter, tokens.len());
            let RowSpec { adapter, start, blocks, output, draw, follows, .. } = spec;
            batch.rows.push(Row { tokens, start, blocks, adapter, output, draw, follows });
            order.push(index);
        }
        (batch, order)
    }

    /// The rows that want `output`.
    pub fn rows_that_want(&self, output: Output) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.output == output)
    }
}

/// For a matrix with one line for each of some rows: its segments.
pub fn segments<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<Segment> {
    let mut segments = Vec::new();
    rows.for_each(|row| extend_segments(&mut segments, &row.adapter, 1));
    segments
}

/// Adds `lines` lines of `adapter` at the end, to the last segment if it has the same adapter.
fn extend_segments(segments: &mut Vec<Segment>, adapter: &Option<Arc<Adapter>>, lines: usize) {
    let end = segments.last().map_or(0, |segment| segment.lines.end);
    match segments.last_mut() {
        Some(last) if last.adapter.as_ref().map(Arc::as_ptr) == adapter.as_ref().map(Arc::as_ptr) => {
            last.lines.end += lines;
        }
        _ => segments.push(Segment { adapter: adapter.clone(), lines: end..end + lines }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tokens: &[u32], output: Output) -> RowSpec {
        RowSpec { adapter: None, tokens: tokens.to_vec(), start: 3, blocks: vec![], output, draw: None, follows: None }
    }

    #[test]
    fn positions_continue_from_what_is_stored() {
        let (batch, order) = Batch::group(vec![row(&[7, 8], Output::Nothing), row(&[9], Output::Logits)]);
        assert_eq!(batch.tokens, [7, 8, 9]);
        assert_eq!(batch.positions, [3, 4, 3]);
        assert_eq!(batch.token_rows, [0, 0, 1]);
        assert_eq!(order, [0, 1]);
        assert_eq!(batch.segments.len(), 1);
        assert_eq!(segments(batch.rows_that_want(Output::Logits))[0].lines, 0..1);
    }
}
