//! Steps of few tokens, captured once for each padded number of them and launched again and again.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use candle_core::Result;
use repertoire_kernels::cuda::{
    Draw, Gpu, GpuError, Graph, Heads, MOST_SLOT_LINES, Pinned, Slice, VirtualTokens, decode_counters_len, tiles,
};

use crate::adapter::SiteMap;
use crate::device::gpu_error;
use crate::model::{BLOCK_TOKENS, Batch, BlockId, Body, Output, Row};

use super::inputs::{Asked, Inputs, Lines, NOWHERE, Rows, SHORT, Tokens, drawn, follows, stored_at};
use super::machine::Machine;
use super::residents::Residents;
use super::step::{Answer, Answered, Choices, Step};

/// Numbers of tokens that steps are captured for. For more, and for what a graph cannot know, launches are made one by one.
pub const SIZES: [usize; 15] = [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 192, 256];

/// What prompts of a captured step may look at together, in tokens: each of theirs looks for itself.
const MOST_SEEN: usize = 32 << 10;

/// The steps of one base whose tokens are few enough to be captured: mostly rows of one token, and short prompts beside them.
pub struct DecodeSteps {
    gpu: Arc<Gpu>,
    sites: Arc<SiteMap>,
    /// By place in [`SIZES`].
    prepared: Vec<Option<Prepared>>,
}

/// The steps of one padded number of tokens.
struct Prepared {
    inputs: Inputs,
    /// Taken in turn: the GPU may still read one of them when the next step's is written.
    staging: [Pinned; 2],
    /// What [`Numbers`] tells apart.
    numbers: Slice,
    /// Of each token's row, [size, max_blocks] u32.
    table: Slice,
    max_blocks: usize,
    size: usize,
    /// `[size]` u32.
    nowhere: Slice,
    /// Whether virtual tokens of an earlier step are still written.
    virtual_tokens: bool,
    captured: HashMap<Kind, Captured>,
}

/// What graphs of as many tokens differ in.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    /// Whether adapters change something.
    adapted: bool,
    /// Whether tokens are drawn.
    drawn: bool,
    /// Whether no token sees more than [`SHORT`].
    short: bool,
    /// Whether some token sees what the step computes of another.
    before: bool,
    /// How many rows ask for a token, padded; `None` if all tokens do, in order.
    asking: Option<usize>,
}

/// Where a step's u32 numbers are among those brought to the GPU, by what they say.
enum Numbers {
    /// Of each token.
    Id,
    Position,
    Store,
    Slot,
    Length,
    Follows,
    /// Three each, as many as tokens, whatever they hold: those without lines are nobody's.
    Tiles,
    /// Of each row that asks: which token's line.
    Asked,
    AskedSlot,
    AskedTiles,
    /// [`Draw::WORDS`] each.
    Draws,
}

impl Numbers {
    /// All of them, for so many tokens.
    const fn all(size: usize) -> usize {
        (Self::Draws as usize + 4 + Draw::WORDS) * size
    }

    const fn at(self, size: usize) -> Range<usize> {
        // Tiles are three numbers each.
        let (first, count) = match self {
            Self::Id | Self::Position | Self::Store | Self::Slot | Self::Length | Self::Follows => (self as usize, 1),
            Self::Tiles => (6, 3),
            Self::Asked => (9, 1),
            Self::AskedSlot => (10, 1),
            Self::AskedTiles => (11, 3),
            Self::Draws => (14, Draw::WORDS),
        };
        first * size..(first + count) * size
    }
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
        let at = SIZES.partition_point(|&size| size < batch.tokens.len());
        let strange = replaced || scored || seen_by_prompts(&batch.rows) > MOST_SEEN;
        if !self.sites.causal || strange || at == SIZES.len() || batch.rows.is_empty() {
            return Ok(None);
        }
        let prepared = match &mut self.prepared[at] {
            Some(prepared) => prepared,
            none => none.insert(Prepared::new(&self.gpu, &self.sites, SIZES[at]).map_err(gpu_error)?),
        };
        let kind = Kind::of(batch, SIZES[at]);
        prepared.write(machine, residents, &self.sites, batch, kind, turn)?;
        prepared.run(body, machine, residents, choices, kind).map(Some)
    }
}

/// How many tokens those of prompts look at.
fn seen_by_prompts(rows: &[Row]) -> usize {
    let prompts = rows.iter().filter(|row| row.tokens.len() > 1);
    prompts.map(|row| row.tokens.len() * (row.start + row.tokens.len())).sum()
}

/// Whether a row sees a token that another one computes in this step: it was let in by finding the block that the token fills.
fn sees_another(rows: &[Row]) -> bool {
    let filled = |row: &Row| row.start / BLOCK_TOKENS..(row.start + row.tokens.len()) / BLOCK_TOKENS;
    let filled: HashSet<BlockId> = rows.iter().flat_map(|row| row.blocks[filled(row)].iter().copied()).collect();
    // Blocks that are full before its first token.
    let found = |row: &Row| row.start / BLOCK_TOKENS;
    rows.iter().flat_map(|row| &row.blocks[..found(row)]).any(|block| filled.contains(block))
}

impl Kind {
    /// The kind of a batch that is padded to so many tokens.
    fn of(batch: &Batch, size: usize) -> Self {
        let patched = |adapter: &crate::adapter::Adapter| !adapter.patches.is_empty();
        let asking = batch.rows.iter().filter(|row| row.output.needs_logits()).count();
        Self {
            adapted: batch.segments.iter().filter_map(|s| s.adapter.as_deref()).any(patched),
            drawn: batch.rows.iter().any(|row| row.draw.is_some()),
            short: batch.rows.iter().all(|row| row.start + row.tokens.len() <= SHORT),
            before: batch.rows.len() < batch.tokens.len() || sees_another(&batch.rows),
            // Padded to few numbers: each of them is a graph of its own.
            asking: (asking < batch.tokens.len()).then(|| match asking {
                0 => 0,
                some => some.next_power_of_two().min(size),
            }),
        }
    }
}

impl Prepared {
    fn new(gpu: &Arc<Gpu>, sites: &SiteMap, size: usize) -> std::result::Result<Self, GpuError> {
        let max_blocks = sites.context.div_ceil(BLOCK_TOKENS);
        let numbers = Slice::of_u32(gpu, &vec![0; Numbers::all(size)])?;
        let table = Slice::of_u32(gpu, &vec![0; size * max_blocks])?;
        let SiteMap { heads, kv_heads, head_dim, .. } = *sites;
        let counters = decode_counters_len(size, Heads { heads, kv_heads, head_dim });
        let counters = Slice::of_u32(gpu, &vec![0; counters])?;
        let of = |what: Numbers| numbers.part(what.at(size));
        let inputs = Inputs {
            ids: of(Numbers::Id),
            follows: Some(of(Numbers::Follows)),
            positions: of(Numbers::Position),
            virtual_tokens: Some(VirtualTokens::new(gpu, size, sites.hidden)?),
            tokens: lines(of(Numbers::Slot), of(Numbers::Tiles)),
            rows: Rows::Decode {
                store: of(Numbers::Store),
                before: None,
                lengths: of(Numbers::Length),
                table: table.clone(),
                max_blocks,
                short: true,
                counters,
            },
            chosen: None,
            draws: None,
            scored: None,
        };
        let staging = || Pinned::new(gpu, 4 * (Numbers::all(size) + size * max_blocks));
        let staging = [staging()?, staging()?];
        let nowhere = Slice::of_u32(gpu, &vec![NOWHERE; size])?;
        let (virtual_tokens, captured) = (false, HashMap::new());
        Ok(Self { inputs, staging, numbers, table, max_blocks, size, nowhere, virtual_tokens, captured })
    }

    /// Writes a batch's tokens, and padding after them, where the captured step reads them, in the order of launches: the step
    /// before may still run.
    fn write(
        &mut self,
        machine: &Machine,
        residents: &Residents,
        sites: &SiteMap,
        batch: &Batch,
        kind: Kind,
        turn: usize,
    ) -> Result<()> {
        let (size, tokens) = (self.size, Tokens::new(machine, residents, sites, batch)?);
        let pinned = &mut self.staging[turn];
        let staging = pinned.u32s_mut();
        let mut put = |what: Numbers, numbers: &mut dyn Iterator<Item = u32>, padding: u32| {
            staging[what.at(size)].iter_mut().for_each(|to| *to = numbers.next().unwrap_or(padding));
        };
        let slot = |row: &Row| row.adapter.as_deref().and_then(|adapter| residents.get(adapter)).map_or(0, |r| r.slot);
        let each = || batch.token_rows.iter().map(|&row| &batch.rows[row]);
        let mut slots: Vec<u32> = each().map(slot).collect();
        slots.resize(size, 0);
        put(Numbers::Id, &mut tokens.ids.iter().copied(), NOWHERE);
        put(Numbers::Position, &mut tokens.positions.iter().copied(), 0);
        put(Numbers::Store, &mut batch.rows.iter().flat_map(stored_at), NOWHERE);
        put(Numbers::Slot, &mut slots.iter().copied(), 0);
        let lengths = batch.rows.iter().flat_map(|row| row.start + 1..=row.start + row.tokens.len());
        put(Numbers::Length, &mut lengths.map(|length| length as u32), 0);
        put(Numbers::Follows, &mut each().map(follows), NOWHERE);
        put(Numbers::Tiles, &mut tiles(&slots).into_iter(), 0);
        let asking = || batch.rows.iter().filter(|row| row.output.needs_logits());
        let mut asking_slots: Vec<u32> = asking().map(slot).collect();
        asking_slots.resize(kind.asking.unwrap_or(size), 0);
        put(Numbers::Asked, &mut asking().map(|row| row.tokens.end as u32 - 1), 0);
        put(Numbers::AskedSlot, &mut asking_slots.iter().copied(), 0);
        put(Numbers::AskedTiles, &mut tiles(&asking_slots).into_iter(), 0);
        // Who is padding takes the likeliest.
        let mut greedy = [0; Draw::WORDS];
        Draw::GREEDY.write(&mut greedy);
        let draws = asking().map(drawn).chain(std::iter::repeat(greedy));
        put(Numbers::Draws, &mut draws.flatten(), 0);
        let all = Numbers::all(size);
        let width = batch.rows.iter().map(|row| row.blocks.len()).max().unwrap_or(0).min(self.max_blocks);
        let tables = staging[all..].chunks_mut(width.max(1)).zip(each());
        tables.for_each(|(table, row)| table.iter_mut().zip(&row.blocks).for_each(|(to, block)| *to = block.0));
        self.numbers.write_from(pinned, 0..4 * all).map_err(gpu_error)?;
        if width > 0 {
            let (from, count) = (4 * all, batch.tokens.len());
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

    /// Makes the inputs those of a kind of steps.
    fn turn_to(&mut self, kind: Kind) {
        let (size, rows) = (self.size, kind.asking.unwrap_or(self.size));
        let of = |what: Numbers, each: usize| {
            let from = what.at(size).start;
            self.numbers.part(from..from + each * rows)
        };
        let whose = Lines { adapted: kind.adapted, ..lines(of(Numbers::AskedSlot, 1), of(Numbers::AskedTiles, 3)) };
        let asked = kind.asking.map(|_| of(Numbers::Asked, 1));
        self.inputs.chosen = (rows > 0).then_some(Asked { lines: asked, whose });
        self.inputs.draws = kind.drawn.then(|| of(Numbers::Draws, Draw::WORDS));
        self.inputs.tokens.adapted = kind.adapted;
        if let Rows::Decode { short, before, .. } = &mut self.inputs.rows {
            *short = kind.short;
            *before = kind.before.then(|| self.nowhere.clone());
        }
    }

    fn run(
        &mut self,
        body: &Body,
        machine: &Machine,
        residents: &Residents,
        choices: &Choices,
        kind: Kind,
    ) -> Result<Answer> {
        let shape = if kind.adapted { residents.tables.shape() } else { 0 };
        if let Some(captured) = self.captured.get(&kind).filter(|captured| captured.shape == shape) {
            return captured.launch();
        }
        self.turn_to(kind);
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
                tracing::warn!(%error, tokens = self.size, "a step could not be captured");
            }
        }
        Ok(answer)
    }
}

/// The lines of a matrix whose adapters' slots are given, and as many tiles.
fn lines(slots: Slice, tiles: Slice) -> Lines {
    let count = slots.len();
    let tiles = (count > MOST_SLOT_LINES).then_some(tiles);
    Lines { count, slots, tiles, replaced: vec![], adapted: false }
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
    fn numbers_lie_side_by_side() {
        use Numbers::*;
        let each = [Id, Position, Store, Slot, Length, Follows, Tiles, Asked, AskedSlot, AskedTiles, Draws];
        let mut end = 0;
        for range in each.map(|what| what.at(24)) {
            assert_eq!(range.start, end);
            end = range.end;
        }
        assert_eq!(end, Numbers::all(24));
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
        assert_eq!(kind(&[(4, Output::Nothing)], 4), (true, Some(0)));
        assert_eq!(kind(&[(1, Output::Logits)], 1), (false, None));
    }

    #[test]
    fn prompts_look_at_what_is_before_each_of_their_tokens() {
        assert_eq!(seen_by_prompts(&[row(500, &[]), prompt(0, 10, &[]), prompt(90, 10, &[])]), 10 * 10 + 10 * 100);
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
