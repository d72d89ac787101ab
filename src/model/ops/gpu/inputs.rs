//! What a step reads besides weights, brought to the GPU.

mod lines;
mod made;
mod staged;

use std::sync::Arc;

use candle_core::Result;
use repertoire_kernels::cuda::{CutRows, Draw, PrefillRow, PrefillRows, Slice, VirtualTokens};

use crate::adapter::{Adapter, SiteMap};
use crate::device::gpu_error;
use crate::model::{BLOCK_TOKENS, Batch, Output, Row};

use super::machine::Machine;
use super::residents::Residents;
use super::staging::Staging;

pub use lines::Lines;
pub use made::Tokens;
use staged::Staged;

/// Tokens that see at most so many are short-sighted: fewer blocks share them out.
pub const SHORT: usize = 256;

/// A line that is nowhere: padding, or a token that is not stored.
pub const NOWHERE: u32 = u32::MAX;

/// A batch on the GPU.
pub struct Inputs {
    /// [tokens] u32; see [`repertoire_kernels::cuda::embed`].
    pub ids: Slice,
    /// [tokens] u32: which choice of the step before a token is, or [`NOWHERE`]; absent if all tokens are known.
    pub follows: Option<Slice>,
    /// [tokens] u32.
    pub positions: Slice,
    pub virtual_tokens: Option<VirtualTokens>,
    pub tokens: Lines,
    pub rows: Rows,
    /// Those that ask for a token, and those that ask for scores.
    pub chosen: Option<Asked>,
    /// How tokens are drawn, u32 [rows that ask for one, Draw::WORDS]; absent if all take the likeliest.
    pub draws: Option<Slice>,
    pub scored: Option<Asked>,
}

/// What the rows' tokens see.
pub enum Rows {
    /// Each token looks for itself at what is before it; the next step's lengths and blocks may be written in their place.
    Decode {
        /// Where tokens are stored, [tokens] u32.
        store: Slice,
        /// Present if some token sees what the step computes of another: then all are stored before any looks. As many slots
        /// that are nowhere, [tokens] u32.
        before: Option<Slice>,
        /// [tokens] u32: how many each sees, itself included; 0 is padding.
        lengths: Slice,
        /// Of each token's row, [tokens, max_blocks] u32.
        table: Slice,
        max_blocks: usize,
        /// Whether no token sees more than [`SHORT`].
        short: bool,
        /// See [`repertoire_kernels::cuda::Decode::counters`].
        counters: Slice,
    },
    /// Any number of tokens.
    Prefill {
        /// Where tokens are stored, [tokens] u32.
        store: Slice,
        rows: PrefillRows,
        /// [rows, max_blocks] u32.
        table: Slice,
        max_blocks: usize,
    },
    /// An encoder's; each with its adapter.
    BothWays { rows: PrefillRows, adapters: Vec<Option<Arc<Adapter>>> },
}

/// Lines of the step that are answered.
pub struct Asked {
    /// Which, as u32; `None` if all, in order.
    pub lines: Option<Slice>,
    pub whose: Lines,
}

impl Inputs {
    /// Brings a batch of any shape to the GPU, by memory of that turn.
    pub fn new(
        machine: &Machine,
        residents: &Residents,
        sites: &SiteMap,
        batch: &Batch,
        (staging, turn): (&mut Staging, usize),
    ) -> Result<Self> {
        let made = Tokens::new(machine, residents, sites, batch)?;
        let mut staged = Staged::default();
        let ids = staged.add(&made.ids);
        let positions = staged.add(&made.positions);
        let following = batch.rows.iter().any(|row| row.follows.is_some());
        let follows = following.then(|| staged.extend(batch.token_rows.iter().map(|&row| follows(&batch.rows[row]))));
        let token_lines = lines::Staged::new(&mut staged, residents, &batch.segments);
        let max_blocks = batch.rows.iter().map(|row| row.blocks.len()).max().unwrap_or(0);
        let (mut store, mut table) = (0..0, 0..0);
        if sites.causal {
            store = staged.extend(batch.rows.iter().flat_map(stored_at));
            table = staged.extend(batch.rows.iter().flat_map(|row| blocks(row, max_blocks)));
        }
        let asked = [false, true].map(|scores| {
            let wants = |row: &&Row| if scores { row.output == Output::Scores } else { row.output.needs_logits() };
            let rows: Vec<&Row> = batch.rows.iter().filter(wants).collect();
            let line = |row: &&Row| if sites.causal { row.tokens.end - 1 } else { row.tokens.start } as u32;
            let lines = staged.extend(rows.iter().map(line));
            let segments = crate::model::batch::segments(rows.iter().copied());
            let whose = lines::Staged::new(&mut staged, residents, &segments);
            (!rows.is_empty()).then_some((lines, whose))
        });
        let choosing = batch.rows.iter().filter(|row| row.output.needs_logits());
        let draws = choosing.clone().any(|row| row.draw.is_some()).then(|| staged.extend(choosing.flat_map(drawn)));
        let each = batch.rows.iter().map(|row| PrefillRow {
            first_line: row.tokens.start,
            tokens: row.tokens.len(),
            start: if sites.causal { row.start } else { 0 },
        });
        let cut = CutRows::new(each.collect());
        let rows = staged.add(cut.numbers());
        let all = staging.send(&machine.gpu, turn, staged.numbers()).map_err(gpu_error)?;
        let rows = cut.on_gpu(&all.part(rows));
        let [chosen, scored] = asked
            .map(|asked| asked.map(|(lines, whose)| Asked { lines: Some(all.part(lines)), whose: whose.on_gpu(&all) }));
        Ok(Self {
            ids: all.part(ids),
            follows: follows.map(|follows| all.part(follows)),
            positions: all.part(positions),
            virtual_tokens: made.virtual_tokens(machine, sites.hidden)?,
            tokens: token_lines.on_gpu(&all),
            rows: match sites.causal {
                true => Rows::Prefill { store: all.part(store), rows, table: all.part(table), max_blocks },
                false => {
                    let adapters = batch.rows.iter().map(|row| row.adapter.clone()).collect();
                    Rows::BothWays { rows, adapters }
                }
            },
            chosen,
            draws: draws.map(|draws| all.part(draws)),
            scored,
        })
    }
}

/// Which choice of the step before a row's token is.
pub fn follows(row: &Row) -> u32 {
    row.follows.map_or(NOWHERE, |choice| choice as u32)
}

/// How a row draws, as the GPU reads it.
pub fn drawn(row: &Row) -> [u32; Draw::WORDS] {
    let mut words = [0; Draw::WORDS];
    row.draw.unwrap_or(Draw::GREEDY).write(&mut words);
    words
}

/// Where each token of a row is stored.
pub fn stored_at(row: &Row) -> impl Iterator<Item = u32> {
    (row.start..row.start + row.tokens.len())
        .map(|position| row.blocks[position / BLOCK_TOKENS].0 * BLOCK_TOKENS as u32 + (position % BLOCK_TOKENS) as u32)
}

/// A row's blocks, and as many that nobody reads as make `count`.
fn blocks(row: &Row, count: usize) -> impl Iterator<Item = u32> {
    row.blocks.iter().map(|block| block.0).chain(std::iter::repeat(0)).take(count)
}
