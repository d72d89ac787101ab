//! Decode steps, captured once for each padded number of rows and launched again and again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use candle_core::Result;
use repertoire_kernels::cuda::{
    Draw, Gpu, GpuError, Graph, Heads, MOST_SLOT_LINES, Pinned, Slice, VirtualTokens, decode_counters_len, tiles,
};

use crate::adapter::SiteMap;
use crate::device::gpu_error;
use crate::model::{BLOCK_TOKENS, Batch, BlockId, Body, Row};

use super::inputs::{Asked, Inputs, Lines, NOWHERE, Rows, SHORT, Tokens, drawn, follows, stored_at};
use super::machine::Machine;
use super::residents::Residents;
use super::step::{Answer, Answered, Choices, Step};

/// Numbers of rows that steps are captured for. Beyond them, and for rows that need more than a token, launches are made one by one.
pub const SIZES: [usize; 15] = [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 192, 256];

/// u32 numbers of a row besides its blocks: six of the row, how it draws, and a tile of its adapter's lines.
const NUMBERS: usize = TILES + 3;
/// Where the tiles begin.
const TILES: usize = DRAWS + Draw::WORDS;
/// Where what says how rows draw begins.
const DRAWS: usize = 6;

/// The decode steps of one base.
pub struct DecodeSteps {
    gpu: Arc<Gpu>,
    sites: Arc<SiteMap>,
    /// By place in [`SIZES`].
    prepared: Vec<Option<Prepared>>,
}

/// The steps of one padded number of rows.
struct Prepared {
    inputs: Inputs,
    /// Taken in turn: the GPU may still read one of them when the next step's is written.
    staging: [Pinned; 2],
    /// ids, positions, where tokens are stored, slots, lengths, and which choice a token is: [6, rows] u32; then `draws`, and
    /// tiles [rows, 3].
    numbers: Slice,
    /// [rows, max_blocks] u32.
    table: Slice,
    max_blocks: usize,
    rows: usize,
    /// Whether virtual tokens of an earlier step are still written.
    virtual_tokens: bool,
    /// How tokens are drawn, [rows, Draw::WORDS] u32.
    draws: Slice,
    /// By whether adapters change something, whether tokens are drawn, and whether all rows are short.
    captured: HashMap<(bool, bool, bool), Captured>,
}

struct Captured {
    /// The residents' shape that it was captured with; 0 without adapters.
    shape: u64,
    graph: Graph,
    /// Until the next step with logits begins.
    logits: Option<Answered>,
}

impl Captured {
    fn launch(&self) -> Result<Answer> {
        self.graph.launch().map_err(gpu_error)?;
        Ok(Answer { logits: self.logits.as_ref().map(Answered::place), ..Answer::default() })
    }
}

impl DecodeSteps {
    /// Nothing prepared yet.
    pub fn new(gpu: &Arc<Gpu>, sites: &Arc<SiteMap>) -> Self {
        Self { gpu: gpu.clone(), sites: sites.clone(), prepared: SIZES.iter().map(|_| None).collect() }
    }

    /// Forgets what was captured: the store moves.
    pub fn forget(&mut self) {
        self.prepared.fill_with(|| None);
    }

    /// Launches a step of one token per row, if this is one. The answer is of as many rows as the step was padded to. `turn` is 0
    /// or 1; the step that had the same before is over.
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
        // Answers are by row: of one that asks for nothing, as when a prompt has more than this piece, nothing may be counted.
        let one_token = batch.rows.iter().all(|row| row.tokens.len() == 1 && row.output.needs_logits());
        let replaces = |adapter| residents.get(adapter).is_none_or(|resident| !resident.weights.is_empty());
        let replaced = batch.segments.iter().filter_map(|s| s.adapter.as_deref()).any(replaces);
        let at = SIZES.partition_point(|&size| size < batch.rows.len());
        let strange = !one_token || replaced || sees_another(&batch.rows);
        if !self.sites.causal || strange || at == SIZES.len() || batch.rows.is_empty() {
            return Ok(None);
        }
        let rows = SIZES[at];
        let prepared = match &mut self.prepared[at] {
            Some(prepared) => prepared,
            none => none.insert(Prepared::new(&self.gpu, &self.sites, rows).map_err(gpu_error)?),
        };
        prepared.write(machine, residents, &self.sites, batch, turn)?;
        prepared.run(body, machine, residents, choices, batch).map(Some)
    }
}

/// Whether a row sees the token that another one computes in this step: it was let in by finding the block that the token fills.
/// A decode step stores a token and reads those before it in one launch, in whatever order.
fn sees_another(rows: &[Row]) -> bool {
    let block = |row: &Row, position: usize| row.blocks.get(position / BLOCK_TOKENS).copied();
    let filling = rows.iter().filter(|row| (row.start + 1).is_multiple_of(BLOCK_TOKENS));
    let filled: HashSet<BlockId> = filling.filter_map(|row| block(row, row.start)).collect();
    let begins = |row: &&Row| row.start > 0 && row.start.is_multiple_of(BLOCK_TOKENS);
    rows.iter().filter(begins).filter_map(|row| block(row, row.start - 1)).any(|before| filled.contains(&before))
}

impl Prepared {
    fn new(gpu: &Arc<Gpu>, sites: &SiteMap, rows: usize) -> std::result::Result<Self, GpuError> {
        let max_blocks = sites.context.div_ceil(BLOCK_TOKENS);
        let all = Slice::of_u32(gpu, &vec![0; NUMBERS * rows])?;
        let draws = all.part(DRAWS * rows..TILES * rows);
        let tiles = (rows > MOST_SLOT_LINES).then(|| all.part(TILES * rows..NUMBERS * rows));
        let table = Slice::of_u32(gpu, &vec![0; rows * max_blocks])?;
        let [ids, positions, store, slots, lengths, follows] =
            [0, 1, 2, 3, 4, 5].map(|i| all.part(i * rows..(i + 1) * rows));
        let SiteMap { heads, kv_heads, head_dim, .. } = *sites;
        let counters = decode_counters_len(rows, Heads { heads, kv_heads, head_dim });
        let counters = Slice::of_u32(gpu, &vec![0; counters])?;
        let lines =
            || Lines { count: rows, slots: slots.clone(), tiles: tiles.clone(), replaced: vec![], adapted: false };
        let inputs = Inputs {
            ids,
            follows: Some(follows),
            positions,
            virtual_tokens: Some(VirtualTokens::new(gpu, rows, sites.hidden)?),
            tokens: lines(),
            rows: Rows::Decode { store, lengths, table: table.clone(), max_blocks, short: true, counters },
            chosen: Some(Asked { lines: None, whose: lines() }),
            draws: None,
            scored: None,
        };
        let staging = || Pinned::new(gpu, 4 * rows * (NUMBERS + max_blocks));
        let staging = [staging()?, staging()?];
        let (virtual_tokens, captured) = (false, HashMap::new());
        Ok(Self { inputs, staging, numbers: all, table, max_blocks, rows, virtual_tokens, draws, captured })
    }

    /// Writes a batch's rows, and padding after them, where the captured step reads them, in the order of launches: the step
    /// before may still run.
    fn write(
        &mut self,
        machine: &Machine,
        residents: &Residents,
        sites: &SiteMap,
        batch: &Batch,
        turn: usize,
    ) -> Result<()> {
        let (rows, tokens) = (self.rows, Tokens::new(machine, residents, sites, batch)?);
        let pinned = &mut self.staging[turn];
        let staging = pinned.u32s_mut();
        for row in 0..rows {
            let numbers = match batch.rows.get(row) {
                Some(of) => {
                    let slot = of.adapter.as_deref().and_then(|adapter| residents.get(adapter)).map_or(0, |r| r.slot);
                    let store = stored_at(of).next().unwrap_or(NOWHERE);
                    [tokens.ids[row], tokens.positions[row], store, slot, (of.start + 1) as u32, follows(of)]
                }
                None => [NOWHERE, 0, NOWHERE, 0, 0, NOWHERE],
            };
            numbers.into_iter().enumerate().for_each(|(i, number)| staging[i * rows + row] = number);
        }
        for (row, words) in staging[DRAWS * rows..TILES * rows].chunks_exact_mut(Draw::WORDS).enumerate() {
            match batch.rows.get(row) {
                Some(row) => words.copy_from_slice(&drawn(row)),
                None => Draw::GREEDY.write(words),
            }
        }
        // As many tiles as rows, whatever they hold: those without lines are nobody's.
        let tiles = tiles(&staging[3 * rows..4 * rows]);
        let (used, unused) = staging[TILES * rows..NUMBERS * rows].split_at_mut(tiles.len());
        used.copy_from_slice(&tiles);
        unused.fill(0);
        let width = batch.rows.iter().map(|row| row.blocks.len()).max().unwrap_or(0).min(self.max_blocks);
        let tables = staging[NUMBERS * rows..].chunks_mut(width.max(1)).zip(&batch.rows);
        tables.for_each(|(table, row)| table.iter_mut().zip(&row.blocks).for_each(|(to, block)| *to = block.0));
        self.numbers.write_from(pinned, 0..4 * NUMBERS * rows).map_err(gpu_error)?;
        if width > 0 {
            let (from, count) = (4 * NUMBERS * rows, batch.rows.len());
            self.table.write_rows(pinned, from, width, count, self.max_blocks).map_err(gpu_error)?;
        }
        if let Some(on_gpu) =
            self.inputs.virtual_tokens.as_mut().filter(|_| tokens.any_virtual() || self.virtual_tokens)
        {
            tokens.write(on_gpu)?;
            self.virtual_tokens = tokens.any_virtual();
        }
        Ok(())
    }

    fn run(
        &mut self,
        body: &Body,
        machine: &Machine,
        residents: &Residents,
        choices: &Choices,
        batch: &Batch,
    ) -> Result<Answer> {
        let patched = |adapter: &crate::adapter::Adapter| !adapter.patches.is_empty();
        let adapted = batch.segments.iter().filter_map(|s| s.adapter.as_deref()).any(patched);
        let drawn = batch.rows.iter().any(|row| row.draw.is_some());
        let all_short = batch.rows.iter().all(|row| row.start < SHORT);
        let kind = (adapted, drawn, all_short);
        let shape = if adapted { residents.tables.shape() } else { 0 };
        if let Some(captured) = self.captured.get(&kind).filter(|captured| captured.shape == shape) {
            return captured.launch();
        }
        if let Rows::Decode { short, .. } = &mut self.inputs.rows {
            *short = all_short;
        }
        self.inputs.tokens.adapted = adapted;
        self.inputs.chosen.iter_mut().for_each(|asked| asked.whose.adapted = adapted);
        self.inputs.draws = drawn.then(|| self.draws.clone());
        let step = || Step { machine, residents, inputs: &self.inputs, choices };
        // Launch by launch this time: then whatever has to be loaded or taken is there when it is captured. Its answer is the step's.
        machine.ahead.note();
        let answer = body.forward(step()).inspect_err(|_| machine.ahead.forget())?;
        let answer = Answer { logits: answer.logits.map(|logits| logits.place()), ..Answer::default() };
        machine.ahead.repeat();
        let mut logits = None;
        let graph = Graph::capture(&machine.gpu, || {
            logits = body.forward(step()).map_err(Capture)?.logits.map(|logits| logits.place());
            Ok::<_, Capture>(())
        });
        machine.ahead.forget();
        match graph {
            Ok(graph) => drop(self.captured.insert(kind, Captured { shape, graph, logits })),
            Err(Capture(error)) => {
                tracing::warn!(%error, rows = self.rows, "a decode step could not be captured");
            }
        }
        Ok(answer)
    }
}

/// What goes wrong while a step is captured.
struct Capture(candle_core::Error);

impl From<GpuError> for Capture {
    fn from(error: GpuError) -> Self {
        Self(gpu_error(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Output;

    fn row(start: usize, blocks: &[u32]) -> Row {
        let blocks = blocks.iter().copied().map(BlockId).collect();
        Row { tokens: 0..1, start, blocks, adapter: None, output: Output::Choice, draw: None, follows: None }
    }

    #[test]
    fn a_row_that_found_a_block_which_another_fills_is_seen() {
        // The first fills block 7 with its 32nd token; the second found both, and goes on.
        assert!(sees_another(&[row(31, &[3, 7]), row(32, &[3, 7, 9])]));
        assert!(sees_another(&[row(16, &[7, 9]), row(15, &[7])]));
        // What is full already was computed before, and what is begun is nobody else's.
        assert!(!sees_another(&[row(32, &[3, 7, 8]), row(32, &[3, 7, 9])]));
        assert!(!sees_another(&[row(31, &[3, 7]), row(32, &[3, 5, 9]), row(0, &[1]), row(20, &[3, 2])]));
    }
}
