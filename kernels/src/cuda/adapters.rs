//! What adapters add to products, all adapters of a batch in one launch: first `x·Aᵀ`, then `B` times that, and what follows.

use super::gpu::{Arg, instance};
use super::product::{mode, tile_bytes};
use super::sources::ADAPTERS;
use super::{Dtype, Gpu, GpuError, Slice, Store, Table};

/// The most sites of a launch.
pub const MOST_SITES: usize = 4;
/// The most lines whose slots kernels look up one by one.
pub const MOST_SLOT_LINES: usize = 64;
/// The most lines of a tile; as in `cuda/adapter_tiles.cuh`.
pub const TILE_LINES: usize = 32;

/// Inputs of a part, at least, and the most parts.
const LEAST_PART: usize = 1024;
const MOST_PARTS: usize = 8;
/// Up to so many lines in tiles, so many blocks share the tiles out.
const FEW_TILED: usize = 256;
const MOST_TILE_BLOCKS: usize = 48;

/// Which lines are whose.
#[derive(Clone, Copy)]
pub enum LinesOf<'a> {
    /// Each line's slot: u32 `[lines]`, up to [`MOST_SLOT_LINES`]. Neighbours of one slot share the reading of its matrices.
    Slots(&'a Slice),
    /// Runs of lines of one slot: u32 [tiles, 3] of slot, first line, and lines, as [`tiles`] makes them. A line is in one; those
    /// without lines come last.
    Tiles(&'a Slice),
}

/// Sites that read the same x, and the lines there.
#[derive(Clone, Copy)]
pub struct Sites<'a> {
    /// Up to [`MOST_SITES`], with equally many inputs and slots.
    pub tables: &'a [&'a Table],
    pub lines_of: LinesOf<'a>,
    pub lines: usize,
    /// Scratch memory for the shrunk lines: f32 [parts, sites, lines, most rank of the tables].
    pub shrunk: &'a Slice,
    /// Into how many parts inputs are cut, that blocks shrink side by side; who expands adds them up. 1 but for tiles; see
    /// [`shrink_parts`].
    pub parts: usize,
    /// What activations are.
    pub dtype: Dtype,
}

/// What an expansion ends with. Columns of the sites follow each other.
#[derive(Clone, Copy)]
pub struct Expansion<'a> {
    /// The base's products, [lines, outputs of all sites]: f32 where y is added to, and otherwise of y's dtype. It may be y.
    pub base: &'a Slice,
    /// The base's bias: `[outputs of all sites]`, of the activations' dtype.
    pub bias: Option<&'a Slice>,
    /// [lines, outputs of all sites], of the activations' dtype or f32.
    pub y: &'a Slice,
    pub store: Store,
}

/// The slots of lines, as u32 [tiles, 3]: slot, first line, lines.
pub fn tiles(slots: &[u32]) -> Vec<u32> {
    let mut tiles = Vec::new();
    let mut first = 0;
    for run in slots.chunk_by(|a, b| a == b) {
        for part in run.chunks(TILE_LINES) {
            tiles.extend([part[0], first, part.len() as u32]);
            first += part.len() as u32;
        }
    }
    tiles
}

/// Into how many parts inputs are best cut, where lines are in tiles: as many as keep the GPU busy.
pub fn shrink_parts(gpu: &Gpu, dtype: Dtype, lines: usize, inputs: usize, sites: usize) -> usize {
    if dtype == Dtype::F32 || lines <= MOST_SLOT_LINES {
        return 1;
    }
    // Most steps have a few adapters of single lines besides whole tiles. Two blocks fit into a multiprocessor.
    let tiles = lines.div_ceil(TILE_LINES) + 16;
    let free = 2 * gpu.multiprocessors() as usize / (tiles * sites).max(1);
    free.min(inputs / LEAST_PART).clamp(1, MOST_PARTS)
}

/// `shrunk = alpha · x·Aᵀ` for every line and site with a low-rank patch; x is [lines, inputs]. Of a line, the first numbers are
/// written, as many as its patch's rank. A line's numbers depend on its own and on the parts alone.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn shrink(gpu: &Gpu, sites: &Sites<'_>, x: &Slice) -> Result<(), GpuError> {
    let Some(first) = sites.check() else { return Ok(()) };
    let inputs = first.inputs();
    assert_eq!((x.dtype(), x.len()), (sites.dtype, sites.lines * inputs), "x is [lines, inputs]");
    assert!(x.aligned(), "x is aligned to 16 bytes");
    let (lines_of, blocks) = sites.lines_of.blocks(sites.lines);
    let numbers =
        [sites.lines, inputs, sites.most_rank(), sites.tiles(), sites.tables.len(), sites.parts].map(Arg::count);
    let shrunk = Arg::slice(sites.shrunk);
    let slots = Arg::count(first.slots());
    let args = [&[Arg::slice(x), lines_of][..], &sites.tables(), &[slots, shrunk], &numbers].concat();
    // A block takes 8 ranks, and then the next that no block has.
    let chunks = sites.most_rank().div_ceil(8).min(16);
    let grid = (chunks as u32, blocks, (sites.tables.len() * sites.parts) as u32);
    let shared = match sites.lines_of {
        LinesOf::Tiles(_) if sites.dtype != Dtype::F32 => tile_bytes(gpu, TILE_LINES, 32),
        _ => 0,
    };
    let name = match sites.lines_of {
        LinesOf::Slots(_) => instance!("shrink_slots", sites.dtype),
        LinesOf::Tiles(_) => instance!("shrink_tiles", sites.dtype),
    };
    // SAFETY: these are the arguments of all six; shapes were checked, and kernels check slots and tiles.
    unsafe { gpu.launch(&ADAPTERS, name, grid, 256, shared, &args) }
}

/// `y = rescale ⊙ (scale ⊙ (base + B·shrunk) + bias)` for every line and site, whether an adapter changes it or not.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn expand(gpu: &Gpu, sites: &Sites<'_>, expansion: &Expansion<'_>) -> Result<(), GpuError> {
    let Some(first) = sites.check() else { return Ok(()) };
    let Expansion { base, bias, y, store } = *expansion;
    let pitch: usize = sites.tables.iter().map(|table| table.outputs()).sum();
    assert!(pitch < 1 << 31, "{pitch} outputs: fewer than 2³¹ are needed");
    let of_base = if store == Store::Add { Dtype::F32 } else { y.dtype() };
    assert_eq!((base.dtype(), base.len()), (of_base, sites.lines * pitch), "base is [lines, outputs]");
    assert_eq!(y.len(), sites.lines * pitch, "y is [lines, outputs]");
    assert!(bias.is_none_or(|bias| bias.dtype() == sites.dtype && bias.len() == pitch), "bias is [outputs]");
    let (lines_of, blocks) = sites.lines_of.blocks(sites.lines);
    let outputs = |site: usize| sites.tables.get(site).map_or(0, |table| table.outputs());
    let [outputs0, outputs1, outputs2, outputs3] = [0, 1, 2, 3].map(outputs);
    let numbers = [sites.lines, sites.most_rank(), outputs0, outputs1, outputs2, outputs3, pitch];
    let args = [
        &[Arg::slice(sites.shrunk), lines_of][..],
        &sites.tables(),
        &[Arg::count(first.slots())],
        &[Arg::slice(base), Arg::optional(bias), Arg::slice(y)],
        &numbers.map(Arg::count),
        &[Arg::U32(mode(store, y, sites.dtype))],
        &[sites.tiles(), sites.tables.len(), sites.parts].map(Arg::count),
    ]
    .concat();
    let most = [outputs0, outputs1, outputs2, outputs3].into_iter().max().unwrap_or(0);
    let grid = (most.div_ceil(256) as u32, blocks, sites.tables.len() as u32);
    let name = match sites.lines_of {
        LinesOf::Slots(_) => instance!("expand_slots", sites.dtype),
        LinesOf::Tiles(_) if sites.lines <= FEW_TILED => instance!("expand_small_tiles", sites.dtype),
        LinesOf::Tiles(_) => instance!("expand_tiles", sites.dtype),
    };
    // SAFETY: these are the arguments of all six; shapes were checked, and kernels check slots and tiles.
    unsafe { gpu.launch(&ADAPTERS, name, grid, 256, 0, &args) }
}

/// `scaled = rescale_in ⊙ x` for lines whose slot has it, and x for others; both are [lines, inputs], and `slots` is u32
/// `[lines]`, fewer than 65,536.
///
/// # Panics
/// If a shape or a dtype does not fit.
pub fn rescale_inputs(gpu: &Gpu, table: &Table, slots: &Slice, x: &Slice, scaled: &Slice) -> Result<(), GpuError> {
    let (inputs, lines) = (table.inputs(), slots.len());
    assert_eq!(slots.dtype(), Dtype::U32, "slots are counted");
    assert_eq!(x.len(), lines * inputs, "x is [lines, inputs]");
    assert_eq!((scaled.dtype(), scaled.len()), (x.dtype(), x.len()), "what is scaled is like x");
    assert!(lines < 1 << 16, "{lines} lines: fewer than 65,536 are needed");
    let args = [
        Arg::slice(x),
        Arg::slice(slots),
        table.arg(),
        Arg::count(table.slots()),
        Arg::slice(scaled),
        Arg::count(inputs),
    ];
    let name = instance!("rescale_inputs", x.dtype());
    // SAFETY: these are the arguments of all three; shapes were checked, and kernels check slots.
    unsafe { gpu.launch(&ADAPTERS, name, (inputs.div_ceil(256) as u32, lines as u32, 1), 256, 0, &args) }
}

impl<'a> Sites<'a> {
    /// Checks shapes; answers the first table if there is something to do.
    pub(super) fn check(&self) -> Option<&'a Table> {
        let first = *self.tables.first()?;
        assert!(self.tables.len() <= MOST_SITES, "{} sites: up to {MOST_SITES} are taken", self.tables.len());
        let alike = |table: &&Table| (table.inputs(), table.slots()) == (first.inputs(), first.slots());
        assert!(self.tables.iter().all(alike), "tables have equally many inputs and slots");
        assert_eq!(self.shrunk.dtype(), Dtype::F32, "shrunk lines are f32");
        assert!(
            self.parts == 1 || self.parts > 1 && self.tiles() > 0,
            "{} parts of lines that are no tiles",
            self.parts
        );
        let most = self.most_rank();
        // Lines of what is shrunk are read 16 bytes at a time.
        assert!(most.is_multiple_of(4) || most < 4, "ranks up to {most}: a multiple of 4 is needed");
        let shrunk = self.parts * self.tables.len() * self.lines * most;
        assert!(self.shrunk.len() >= shrunk, "shrunk lines are [parts, sites, lines, most rank]");
        assert!(self.lines < 1 << 31, "{} lines: fewer than 2³¹ are needed", self.lines);
        (self.lines != 0).then_some(first)
    }

    /// Tiles of the list, those without lines included.
    pub(super) fn tiles(&self) -> usize {
        if let LinesOf::Tiles(tiles) = self.lines_of { tiles.len() / 3 } else { 0 }
    }

    pub(super) fn most_rank(&self) -> usize {
        self.tables.iter().map(|table| table.most_rank()).max().unwrap_or(0)
    }

    pub(super) fn tables(&self) -> [Arg; MOST_SITES] {
        std::array::from_fn(|i| self.tables.get(i).map_or(Arg::Null, |table| table.arg()))
    }
}

impl LinesOf<'_> {
    /// The kernels' argument, and how many blocks share the lines out.
    pub(super) fn blocks(&self, lines: usize) -> (Arg, u32) {
        let (slice, blocks) = match self {
            Self::Slots(slots) => {
                assert!(
                    lines <= MOST_SLOT_LINES,
                    "{lines} lines: up to {MOST_SLOT_LINES} are taken; make tiles of more"
                );
                assert_eq!(slots.len(), lines, "a slot for every line");
                (slots, lines)
            }
            Self::Tiles(tiles) => {
                assert!(tiles.len().is_multiple_of(3) && tiles.len() / 3 < 1 << 16, "tiles are [tiles, 3]");
                // A captured step's list may be as long as its lines are many, and mostly empty: blocks take one after the other.
                let blocks = if lines <= FEW_TILED { MOST_TILE_BLOCKS } else { usize::MAX };
                (tiles, blocks.min(tiles.len() / 3))
            }
        };
        assert_eq!(slice.dtype(), Dtype::U32, "slots are counted");
        (Arg::slice(slice), blocks as u32)
    }
}

#[cfg(test)]
pub(super) mod tests;
