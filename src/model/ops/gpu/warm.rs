//! Steps that nobody asked for.

use crate::adapter::SiteMap;
use crate::model::{BLOCK_TOKENS, Batch, BlockId, Output, RowSpec};

use super::captured::SIZES;

/// A step of up to `tokens` tokens of prompts, as few rows as hold them, in a store of so many blocks.
pub fn prompts(sites: &SiteMap, tokens: usize, blocks: usize) -> Batch {
    let room = if sites.causal { blocks * BLOCK_TOKENS } else { tokens };
    let mut left = tokens.min(room);
    let mut specs = Vec::new();
    let mut free = (0..).map(BlockId);
    while left > 0 {
        let count = left.min(sites.context);
        left -= count;
        let wanted = if sites.causal { count.div_ceil(BLOCK_TOKENS) } else { 0 };
        specs.push(row(count, free.by_ref().take(wanted).collect(), Output::Nothing));
    }
    // The last row's logits are asked for, so that the head is warm too.
    if let Some(last) = specs.last_mut().filter(|_| sites.causal) {
        last.output = Output::Choice;
    }
    Batch::group(specs).0
}

/// Steps of every number of rows that is captured, up to the first that holds `rows`.
pub fn decode_steps(sites: &SiteMap, rows: usize, blocks: usize) -> Vec<Batch> {
    if !sites.causal || blocks == 0 {
        return vec![];
    }
    let used = SIZES.partition_point(|&size| size < rows) + 1;
    let step = |&size: &usize| Batch::group((0..size).map(|_| row(1, vec![BlockId(0)], Output::Choice)).collect()).0;
    SIZES.iter().take(used).map(step).collect()
}

fn row(tokens: usize, blocks: Vec<BlockId>, output: Output) -> RowSpec {
    RowSpec { adapter: None, tokens: vec![0; tokens], start: 0, blocks, output, draw: None, follows: None }
}
