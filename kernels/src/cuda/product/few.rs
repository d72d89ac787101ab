//! How a product of few lines of 16-bit numbers is launched: by which kernel, and how its blocks share out the weights.

use super::super::gpu::Arg;
use super::super::sources::{ADAPTED, PRODUCT};
use super::super::{Dtype, Gpu, GpuError};

/// k that warps share out among themselves; as in `cuda/tile.cuh`.
const UNIT: usize = 256;

/// Into how many parts k is split: enough that all multiprocessors have something to read.
///
/// It decides the order of summation, so it does not look at the lines.
pub fn splits(gpu: &Gpu, inputs: usize, outputs: usize) -> usize {
    let units = inputs.div_ceil(UNIT).max(1);
    let mut splits = 1;
    while splits < 16 && !fills(gpu, outputs.div_ceil(64) * splits) {
        splits *= 2;
    }
    splits.min(units)
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
}

impl Few {
    /// A product's: with the most rows of a block that leave enough blocks, as more rows mean that x is read less often.
    pub fn plain(gpu: &Gpu, dtype: Dtype, lines: usize, inputs: usize, outputs: usize) -> Self {
        let (class, splits) = (class(lines), splits(gpu, inputs, outputs));
        let names = if dtype == Dtype::F16 { F16[class] } else { BF16[class] };
        let fits = |&(_, rows): &(Names, usize)| fills(gpu, outputs.div_ceil(rows) * splits);
        let tiles = names.iter().copied().zip([16, 32, 64]);
        let (names, rows) = tiles.rev().find(fits).unwrap_or((names[0], 16));
        Self::new(Tile { names, lines: 8 << class, rows }, outputs, splits)
    }

    /// A gated product's, of `2 · outputs` rows. Feed-forwards are wide: it comes in blocks of the most rows only.
    pub fn gated(gpu: &Gpu, dtype: Dtype, lines: usize, inputs: usize, outputs: usize) -> Self {
        let (class, splits) = (class(lines), splits(gpu, inputs, 2 * outputs));
        let names = if dtype == Dtype::F16 { GATED_F16[class] } else { GATED_BF16[class] };
        let rows = if class == 0 { 32 } else { 64 };
        Self::new(Tile { names, lines: 8 << class, rows }, 2 * outputs, splits)
    }

    fn new(tile: Tile, rows: usize, splits: usize) -> Self {
        Self { row_blocks: rows.div_ceil(tile.rows), tile, splits }
    }

    /// Rows of all blocks, also of those past the end.
    pub fn rows(&self) -> usize {
        self.row_blocks * self.tile.rows
    }

    /// Ranks that a block shrinks at once: as many for each 128 threads as `cuda/adapters.cuh` says.
    pub fn team_ranks(&self) -> usize {
        self.tile.threads() as usize / 128 * 4
    }

    /// Launches it without adapters.
    ///
    /// # Safety
    /// The arguments are those of `cuda/product.cu`, of memory that is there.
    pub unsafe fn launch(&self, gpu: &Gpu, args: &[Arg]) -> Result<(), GpuError> {
        let grid = (self.row_blocks as u32, self.splits as u32, 1);
        // SAFETY: the caller vouches for the arguments.
        unsafe {
            gpu.launch(&PRODUCT, self.tile.names.plain, grid, self.tile.threads(), self.tile.shared_bytes(), args)
        }
    }

    /// Launches it with adapters, for which `shrinking` blocks begin first.
    ///
    /// # Safety
    /// The arguments are those of `cuda/adapted.cu`, of memory that is there.
    pub unsafe fn launch_adapted(&self, gpu: &Gpu, shrinking: usize, args: &[Arg]) -> Result<(), GpuError> {
        let grid = ((shrinking + self.row_blocks * self.splits) as u32, 1, 1);
        // SAFETY: the caller vouches for the arguments.
        unsafe {
            gpu.launch(&ADAPTED, self.tile.names.adapted, grid, self.tile.threads(), self.tile.shared_bytes(), args)
        }
    }
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

    /// As `cuda/tile.cuh` counts them: three stages of x, or the sums of four warps.
    fn shared_bytes(&self) -> u32 {
        let step = if self.lines == 64 || self.rows == 64 { UNIT } else { UNIT * 2 };
        let stages = 3 * self.lines * (step * 2 + 64);
        let sums = 4 * self.lines * (self.rows + 4) * 4;
        stages.max(sums) as u32
    }
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

/// The kernels of a tile without and with adapters.
#[derive(Clone, Copy)]
struct Names {
    plain: &'static str,
    adapted: &'static str,
}

macro_rules! tile {
    ($plain:literal, $adapted:literal, $($tile:literal),*) => {
        Names { plain: concat!($plain, $("_", $tile),*), adapted: concat!($adapted, $("_", $tile),*) }
    };
}

/// By lines, then by rows of a block: 16, 32, 64. With up to 8 lines x is small, and smaller blocks start and end sooner.
macro_rules! tiles {
    ($dtype:literal) => {
        [
            &[tile!("product", "adapted", $dtype, "8", "16"), tile!("product", "adapted", $dtype, "8", "32")],
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
        [$(tile!("gated_product", "adapted_gated", $dtype, $lines)),*]
    };
}

const F16: [&[Names]; 4] = tiles!("f16");
const BF16: [&[Names]; 4] = tiles!("bf16");
const GATED_F16: [Names; 4] = gated_tiles!("f16": "8" "16" "32" "64");
const GATED_BF16: [Names; 4] = gated_tiles!("bf16": "8" "16" "32" "64");
