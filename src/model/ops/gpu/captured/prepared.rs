//! Captured steps of one padded number of tokens, and where they read their inputs.

use std::sync::Arc;

use candle_core::Result;
use repertoire_kernels::cuda::{
    Draw, Gpu, GpuError, Graph, Heads, MOST_SLOT_LINES, Pinned, Slice, VirtualTokens, decode_counters_len, tiles,
};

use crate::adapter::SiteMap;
use crate::device::gpu_error;
use crate::model::ops::gpu::inputs::{Asked, Inputs, Lines, NOWHERE, Rows, Tokens, drawn, follows, stored_at};
use crate::model::ops::gpu::machine::Machine;
use crate::model::ops::gpu::residents::Residents;
use crate::model::ops::gpu::step::{Answer, Answered, Choices, Step};
use crate::model::{BLOCK_TOKENS, Batch, Body, Row};

use super::kept::{Found, Kept};
use super::kind::Kind;
use super::numbers::Numbers;

/// The steps of one padded number of tokens.
pub struct Prepared {
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
    captured: Kept<Captured>,
}

struct Captured {
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

impl Prepared {
    /// Memory for steps of so many tokens.
    pub fn new(gpu: &Arc<Gpu>, sites: &SiteMap, size: usize) -> std::result::Result<Self, GpuError> {
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
        Ok(Self {
            inputs,
            staging,
            numbers,
            table,
            max_blocks,
            size,
            nowhere,
            virtual_tokens: false,
            captured: Kept::new(),
        })
    }

    /// Writes a batch's tokens, and padding after them, where the captured step reads them, in the order of launches: the step
    /// before may still run.
    pub fn write(
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

    /// Launches a step of that kind with what was written last.
    pub fn run(
        &mut self,
        body: &Body,
        machine: &Machine,
        residents: &Residents,
        choices: &Choices,
        kind: Kind,
    ) -> Result<Answer> {
        let shape = if kind.adapted { residents.tables.shape() } else { 0 };
        let wanted = match self.captured.find(kind, shape) {
            Found::Graph(captured) => return captured.launch(),
            Found::Wanted => true,
            Found::Unwanted => false,
        };
        self.turn_to(kind);
        let step = || Step { machine, residents, inputs: &self.inputs, choices };
        let forward = || {
            let answer = body.forward(step())?;
            Ok(Answer { logits: answer.logits.map(|logits| logits.place()), ..Answer::default() })
        };
        if !wanted {
            return forward();
        }
        // Launch by launch this time: then whatever has to be loaded or taken is there when it is captured. Its answer is the step's.
        machine.ahead.note();
        let answer = forward().inspect_err(|_: &candle_core::Error| machine.ahead.forget())?;
        machine.ahead.repeat();
        let mut logits = None;
        let graph = Graph::capture(&machine.gpu, || {
            logits = body.forward(step()).map_err(Capture)?.logits.map(|logits| logits.place());
            Ok::<_, Capture>(())
        });
        machine.ahead.forget();
        let graph = graph.inspect_err(|Capture(error)| {
            tracing::warn!(%error, tokens = self.size, "a step could not be captured");
        });
        self.captured.put(kind, shape, graph.ok().map(|graph| Captured { graph, logits }));
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
