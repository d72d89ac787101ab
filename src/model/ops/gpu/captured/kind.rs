//! What captured steps of as many tokens differ in.

use std::collections::HashSet;

use crate::model::ops::gpu::inputs::SHORT;
use crate::model::{BLOCK_TOKENS, Batch, BlockId, Row};

/// To how many rows those that ask are padded, up to the step's tokens: each is a graph of its own.
const ASKING: [usize; 6] = [0, 1, 8, 32, 64, 256];

/// What graphs of as many tokens differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Whether adapters change something.
    pub adapted: bool,
    /// Whether tokens are drawn.
    pub drawn: bool,
    /// Whether no token sees more than [`SHORT`].
    pub short: bool,
    /// Whether some token sees what the step computes of another.
    pub before: bool,
    /// How many rows ask for a token, padded; `None` if all tokens do, in order.
    pub asking: Option<usize>,
}

impl Kind {
    /// The kind of a batch that is padded to so many tokens.
    pub fn of(batch: &Batch, size: usize) -> Self {
        let patched = |adapter: &crate::adapter::Adapter| !adapter.patches.is_empty();
        let asking = batch.rows.iter().filter(|row| row.output.needs_logits()).count();
        Self {
            adapted: batch.segments.iter().filter_map(|s| s.adapter.as_deref()).any(patched),
            drawn: batch.rows.iter().any(|row| row.draw.is_some()),
            short: batch.rows.iter().all(|row| row.start + row.tokens.len() <= SHORT),
            before: batch.rows.len() < batch.tokens.len() || sees_another(&batch.rows),
            asking: (asking < batch.tokens.len()).then(|| {
                let padded = ASKING.into_iter().find(|&padded| padded >= asking);
                padded.unwrap_or(size).min(size)
            }),
        }
    }

    /// Whether it is of a kind of which there are many, and most come seldom: not of one token for each row, all of which ask.
    pub fn is_seldom(self) -> bool {
        self.before || self.asking.is_some()
    }
}

/// Whether a row sees a token that another one computes in this step: it was let in by finding the block that the token fills.
fn sees_another(rows: &[Row]) -> bool {
    let filled = |row: &Row| row.start / BLOCK_TOKENS..(row.start + row.tokens.len()) / BLOCK_TOKENS;
    let filled: HashSet<BlockId> = rows.iter().flat_map(|row| row.blocks[filled(row)].iter().copied()).collect();
    // The last block that is full before its first token: if another one that it found is filled now, so is this one.
    let found = |row: &Row| Some(row.blocks[(row.start / BLOCK_TOKENS).checked_sub(1)?]);
    rows.iter().filter_map(found).any(|block| filled.contains(&block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Output;

    fn row(start: usize, blocks: &[u32]) -> Row {
        prompt(start, 1, blocks)
    }

    fn prompt(start: usize, tokens: usize, blocks: &[u32]) -> Row {
        let blocks = blocks.iter().copied().map(BlockId).collect();
        Row { tokens: 0..tokens, start, blocks, adapter: None, output: Output::Choice, draw: None, follows: None }
    }

    /// A batch of rows of so many tokens, and whether they ask for one.
    fn batch(rows: &[(usize, Output)]) -> Batch {
        let spec = |(i, &(tokens, output)): (usize, &(usize, Output))| crate::model::RowSpec {
            adapter: None,
            tokens: vec![0; tokens],
            start: 0,
            blocks: vec![BlockId(i as u32)],
            output,
            draw: None,
            follows: None,
        };
        Batch::group(rows.iter().enumerate().map(spec).collect()).0
    }

    #[test]
    fn a_step_is_of_a_kind_by_who_asks_and_who_sees_whom() {
        let kind = |rows: &[(usize, Output)], size| {
            let Kind { before, asking, .. } = Kind::of(&batch(rows), size);
            (before, asking)
        };
        let (choice, nothing) = ((1, Output::Choice), (1, Output::Nothing));
        assert_eq!(kind(&[choice; 31], 32), (false, None));
        assert_eq!(kind(&[&[nothing][..], &[choice; 30]].concat(), 32), (false, Some(32)));
        assert_eq!(kind(&[&[(4, Output::Choice)][..], &[choice; 31]].concat(), 40), (true, Some(32)));
        assert_eq!(kind(&[&[(4, Output::Nothing)][..], &[choice; 36]].concat(), 40), (true, Some(40)));
        assert_eq!(kind(&[(4, Output::Nothing)], 8), (true, Some(0)));
        assert_eq!(kind(&[(4, Output::Choice), (3, Output::Choice)], 8), (true, Some(8)));
        assert_eq!(kind(&[(1, Output::Logits)], 1), (false, None));
    }

    #[test]
    fn a_row_that_found_a_block_which_another_fills_is_seen() {
        // The first fills block 7 with its 32nd token; the second found both, and goes on.
        assert!(sees_another(&[row(31, &[3, 7]), row(32, &[3, 7, 9])]));
        assert!(sees_another(&[row(16, &[7, 9]), row(15, &[7])]));
        assert!(sees_another(&[prompt(20, 12, &[3, 7]), row(32, &[3, 7, 9])]));
        // What is full already was computed before, what is begun is nobody else's, and what is its own is no other's.
        assert!(!sees_another(&[prompt(20, 11, &[3, 7]), row(32, &[3, 8, 9]), prompt(0, 48, &[4, 5, 6])]));
        assert!(!sees_another(&[row(32, &[3, 7, 8]), row(32, &[3, 7, 9])]));
        assert!(!sees_another(&[row(31, &[3, 7]), row(32, &[3, 5, 9]), row(0, &[1]), row(20, &[3, 2])]));
    }
}
