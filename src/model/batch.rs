//! The whole contract between engine and model: ragged rows, no padding, no globals.

use std::ops::Range;
use std::sync::Arc;

use crate::adapter::Adapter;

use super::BlockId;

/// What a row wants of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Nothing: a chunk of a prompt that goes on.
    Nothing,
    /// The logits after its last token.
    Logits,
    /// The scores of its adapter's head.
    Scores,
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
    pub output: Output,
}

/// Neighbouring rows with the same adapter.
#[derive(Clone, Debug)]
pub struct Segment {
    pub adapter: Option<Arc<Adapter>>,
    pub rows: Range<usize>,
    /// Their tokens.
    pub tokens: Range<usize>,
    /// Their places among the rows that asked for logits.
    pub logits: Range<usize>,
}

/// One step's work, grouped by adapter. Built by [`BatchBuilder`].
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids; `vocab + i` is virtual token `i` of the row's adapter.
    pub tokens: Vec<u32>,
    /// Position of each token.
    pub positions: Vec<u32>,
    pub rows: Vec<Row>,
    pub segments: Vec<Segment>,
}

impl Batch {
    /// Index of the last token of each row that wants `output`.
    pub fn last_tokens(&self, output: Output) -> Vec<u32> {
        self.rows.iter().filter(|row| row.output == output).map(|row| row.tokens.end as u32 - 1).collect()
    }
}

/// Collects rows in any order and groups them by adapter once, for all layers.
#[derive(Default)]
pub struct BatchBuilder {
    rows: Vec<(Option<Arc<Adapter>>, Vec<u32>, Row)>,
}

impl BatchBuilder {
    /// Adds a row: its adapter, the tokens to compute, how many positions come before them, its blocks, what it wants.
    pub fn push(&mut self, adapter: Option<Arc<Adapter>>, tokens: Vec<u32>, start: usize, blocks: Vec<BlockId>, output: Output) {
        self.rows.push((adapter, tokens, Row { tokens: 0..0, start, blocks, output }));
    }

    /// The batch, and for each of its rows the index in order of `push`.
    pub fn build(self) -> (Batch, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        let key = |i: usize| self.rows[i].0.as_ref().map(|adapter| Arc::as_ptr(adapter) as usize);
        order.sort_by_key(|&i| (key(i), i));

        let mut batch = Batch::default();
        let mut logits = 0;
        for &i in &order {
            let (adapter, tokens, row) = &self.rows[i];
            let at = batch.tokens.len();
            batch.tokens.extend_from_slice(tokens);
            batch.positions.extend((0..tokens.len()).map(|t| (row.start + t) as u32));
            let same = batch.segments.last().is_some_and(|last| {
                last.adapter.as_ref().map(Arc::as_ptr) == adapter.as_ref().map(Arc::as_ptr)
            });
            if !same {
                let row = batch.rows.len();
                batch.segments.push(Segment { adapter: adapter.clone(), rows: row..row, tokens: at..at, logits: logits..logits });
            }
            logits += usize::from(row.output == Output::Logits);
            batch.rows.push(Row { tokens: at..batch.tokens.len(), ..row.clone() });
            let segment = batch.segments.last_mut().expect("just ensured");
            segment.rows.end = batch.rows.len();
            segment.tokens.end = batch.tokens.len();
            segment.logits.end = logits;
        }
        (batch, order)
    }
}
