//! How a product of few lines of 16-bit numbers is launched: by which kernel, and how its blocks share out the weights.

use super::super::gpu::Arg;
use super::super::sources::{ADAPTED, NORMED, PRODUCT};
use super::super::{Dtype, Gpu, GpuError, MOST_SITES};

/// k that blocks share out among splits.
const UNIT: usize = 256;
/// k of a step, as in `cuda/tile.cuh`.
const STEP: usize = 128;

/// Into how many parts k is split: enough that all multiprocessors have something to read.
///
/// It decides the order of summation, so it does not look at the lines.
pub fn splits(gpu: &Gpu, inputs: usize, outputs: usize) -> usize {
    inputs.div_ceil(span(gpu, inputs, outputs)).max(1)
}

/// The k of a split, the last of which may have fewer.
fn span(gpu: &Gpu, inputs: usize, outputs: usize) -> usize {
    let mut splits = 1;
    while splits < 16 && !fills(gpu, outputs.div_ceil(64) * splits) {
        splits *= 2;
    }
    inputs.div_ceil(UNIT).div_ceil(splits).max(1) * UNIT
}

/// Whether so many blocks keep all multiprocessors busy, or nearly all.
fn fills(gpu: &Gpu, blocks: usize) -> bool {
    blocks * 10 >= gpu.multiprocessors() as usize * 9
}

/// A launch that waits for its arguments.
pub struct Few {
    tile: Tile,
    /// Blocks of rows of the weights.
    pub row_blocks: usize,
    pub splits: usize,
    /// k of a split.
    pub span: usize,
}

impl Few {
    /// A product's: with the most rows of a block that leave enough blocks, as more rows mean that x is read less often.
    pub fn plain(gpu: &Gpu, dtype: Dtype, lines: usize, inputs: usize, outputs: usize) -> Self {
        let (class, span) = (class(lines), span(gpu, inputs, outputs));
        let splits = inputs.div_ceil(span).max(1);
        let names = if dtype == Dtype::F16 { F16[class] } else { BF16[class] };
        let fits = |&(_, rows): &(Names, usize)| fills(gpu, outputs.div_ceil(rows) * splits);
        let tiles = names.iter().copied().zip([16, 32, 64]);
        let (names, rows) = tiles.rev().find(fits).unwrap_or((names[0], 16));
        Self::new(Tile { names, lines: 8 << class, rows }, outputs, splits, span)
    }

    /// A gated product's, of `2 · outputs` rows. Feed-forwards are wide: it comes in blocks of the most rows only.
    pub fn gated(gpu: &Gpu, dtype: Dtype, lines: usize, inputs: usize, outputs: usize) -> Self {
        let (class, span) = (class(lines), span(gpu, inputs, 2 * outputs));
        let splits = inputs.div_ceil(span).max(1);
        let names = if dtype == Dtype::F16 { GATED_F16[class] } else { GATED_BF16[class] };
        let rows = if class == 0 { 32 } else { 64 };
        Self::new(Tile { names, lines: 8 << class, rows }, 2 * outputs, splits, span)
    }

    fn new(tile: Tile, rows: usize, splits: usize, span: usize) -> Self {
        Self { row_blocks: rows.div_ceil(tile.rows), tile, splits, span }
    }

    /// Rows of all blocks, also of those past the end.
    pub fn rows(&self) -> usize {
        self.row_blocks * self.tile.rows
    }

    /// Launches it for lines that are normalised first.
    ///
    /// # Safety
    /// The arguments are those of `cuda/normed.cu`, of memory that is there, and for as many lines as that has room for.
    pub unsafe fn launch_normed(&self, gpu: &Gpu, lines: usize, inputs: usize, args: &[Arg]) -> Result<(), GpuError> {
        let name = self.tile.names.normed.expect("tiles of the fewest lines have a norm");
        let grid = (self.row_blocks as u32, self.splits as u32, 1);
        // All lines in whole steps, and the zeros of those that are not there.
        let kept = 2 * lines * inputs.next_multiple_of(STEP) + 16;
        let bytes = tile_bytes(gpu, self.tile.lines, self.tile.rows) + kept as u32;
        // SAFETY: the caller vouches for the arguments.
        unsafe { gpu.launch(&NORMED, name, grid, self.tile.threads(), bytes, args) }
    }

    /// How it is launched with adapters that change sites of so many `outputs`, and whether it shrinks lines.
    pub fn patched(&self, gpu: &Gpu, outputs: &[usize], shrinks: bool) -> Patched {
        // Those that a block may meet: it keeps something for each of them.
        let wide = outputs.iter().all(|outputs| *outputs >= self.tile.rows);
        let met = if wide { outputs.len().min(2) } else { outputs.len() };
        let bytes = patched_bytes(gpu, self.tile.lines, self.tile.rows, met);
        // Kernels are compiled so that two blocks have registers enough.
        let resident = (gpu.shared_bytes() / (bytes + gpu.reserved_bytes())).clamp(1, 2) as usize;
        let blocks = self.row_blocks * self.splits;
        let shrinkers = if shrinks { blocks.min(resident * gpu.multiprocessors() as usize) } else { 0 };
        Patched { bytes, shrinkers, threads: self.tile.threads() + if shrinks { 64 } else { 0 } }
    }

    /// Launches it without adapters.
    ///
    /// # Safety
    /// The arguments are those of `cuda/product.cu`, of memory that is there.
    pub unsafe fn launch(&self, gpu: &Gpu, args: &[Arg]) -> Result<(), GpuError> {
        let grid = (self.row_blocks as u32, self.splits as u32, 1);
        let bytes = tile_bytes(gpu, self.tile.lines, self.tile.rows);
        // SAFETY: the caller vouches for the arguments.
        unsafe { gpu.launch(&PRODUCT, self.tile.names.plain, grid, self.tile.threads(), bytes, args) }
    }

    /// Launches it with adapters.
    ///
    /// # Safety
    /// The arguments are those of `cuda/adapted.cu`, of memory that is there.
    pub unsafe fn launch_patched(&self, gpu: &Gpu, patched: &Patched, args: &[Arg]) -> Result<(), GpuError> {
        let grid = (self.row_blocks as u32, self.splits as u32, 1);
        // SAFETY: the caller vouches for the arguments.
        unsafe { gpu.launch(&ADAPTED, self.tile.names.adapted, grid, patched.threads, patched.bytes, args) }
    }
}

/// How a product with adapters is launched.
pub struct Patched {
    /// Shared memory of a block.
    bytes: u32,
    /// Of a block: two warps more where it shrinks.
    threads: u32,
    /// Blocks whose warps shrink: as many as have a place at once.
    pub shrinkers: usize,
}

/// One of the kernels for 16-bit numbers.
struct Tile {
    names: Names,
    /// Lines it has room for.
    lines: usize,
    /// Rows of w that a block takes.
    rows: usize,
}

impl Tile {
    fn threads(&self) -> u32 {
        if self.rows == 16 { 128 } else { 256 }
    }
}

/// Shared memory of a block without adapters.
pub fn tile_bytes(gpu: &Gpu, lines: usize, rows: usize) -> u32 {
    shared_bytes(lines, rows, room(gpu, lines, rows, false))
}

/// The same with adapters that change outputs of `sites` of them: sums, and what slots are.
fn patched_bytes(gpu: &Gpu, lines: usize, rows: usize, sites: usize) -> u32 {
    shared_bytes(lines, rows, room(gpu, lines, rows, true)) + (lines * ((rows + 8) * 4 + sites * 16)) as u32
}

/// Whether a block of the GPU has shared memory for so many lines with adapters.
pub fn has_room(gpu: &Gpu, lines: usize) -> bool {
    patched_bytes(gpu, 8 << class(lines), 64, MOST_SITES) <= gpu.block_bytes()
}

/// Shared memory for a block's steps, as `cuda/tile.cuh` says.
fn room(gpu: &Gpu, lines: usize, rows: usize, patched: bool) -> usize {
    let largest = (lines, rows) == (64, 64);
    let kilobytes = match (gpu.is_hopper(), largest) {
        (true, true) if patched => 140,
        (true, _) => 106,
        (false, true) => 96,
        (false, false) => 76,
    };
    kilobytes << 10
}

/// Bytes of shared memory of a block, as `cuda/tile.cuh` counts them: as many steps of weights and x as there is room for, or the
/// sums of four warps.
fn shared_bytes(lines: usize, rows: usize, room: usize) -> u32 {
    let step = (rows + lines) * 256;
    let sums = 4 * lines * (rows + 8) * 4;
    ((room / step).min(6) * step).max(sums) as u32
}

/// Which kernels have room for so many lines: those for `8 << class`.
fn class(lines: usize) -> usize {
    match lines {
        0..=8 => 0,
        9..=16 => 1,
        17..=32 => 2,
        _ => 3,
    }
}

/// The kernels of a tile without and with adapters, and with a norm before it.
#[derive(Clone, Copy)]
struct Names {
    plain: &'static str,
    adapted: &'static str,
    normed: Option<&'static str>,
}

macro_rules! tile {
    ($plain:literal, $adapted:literal, $($tile:literal),*) => {
        Names {
            plain: concat!($plain, $("_", $tile),*),
            adapted: concat!($adapted, $("_", $tile),*),
            normed: None,
        }
    };
    ($plain:literal, $adapted:literal, $normed:literal: $($tile:literal),*) => {
        Names { normed: Some(concat!($normed, $("_", $tile),*)), ..tile!($plain, $adapted, $($tile),*) }
    };
}

/// By lines, then by rows of a block: 16, 32, 64. With up to 8 lines x is small, and smaller blocks start and end sooner.
macro_rules! tiles {
    ($dtype:literal) => {
        [
            &[
                tile!("product", "adapted", "normed": $dtype, "8", "16"),
                tile!("product", "adapted", "normed": $dtype, "8", "32"),
            ],
            tiles!($dtype, "16"),
            tiles!($dtype, "32"),
            tiles!($dtype, "64"),
        ]
    };
    ($dtype:literal, $lines:literal) => {
        &[
            tile!("product", "adapted", $dtype, $lines, "16"),
            tile!("product", "adapted", $dtype, $lines, "32"),
            tile!("product", "adapted", $dtype, $lines, "64"),
        ]
    };
}

/// By lines.
macro_rules! gated_tiles {
    ($dtype:literal: $($lines:literal)*) => {
        [
            tile!("gated_product", "adapted_gated", "normed_gated": $dtype, "8"),
            $(tile!("gated_product", "adapted_gated", $dtype, $lines)),*
        ]
    };
}

const F16: [&[Names]; 4] = tiles!("f16");
const BF16: [&[Names]; 4] = tiles!("bf16");
const GATED_F16: [Names; 4] = gated_tiles!("f16": "16" "32" "64");
const GATED_BF16: [Names; 4] = gated_tiles!("bf16": "16" "32" "64");
