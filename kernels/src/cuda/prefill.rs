//! Attention of rows with many new tokens.

use std::cmp::Reverse;
use std::sync::Arc;

use super::gpu::{Arg, count, instance};
use super::sources::{PREFILL, PREFILL_PLAIN};
use super::{BLOCK_TOKENS, Dtype, Gpu, GpuError, Heads, KvLayer, Matrix, Slice};

/// Queries of a tile.
const QUERIES: usize = 64;

/// The widest head.
const WIDEST: usize = 256;

/// A row's new tokens: where they stand in the step's matrix, and how many tokens are in the store before them.
#[derive(Clone, Copy, Debug)]
pub struct PrefillRow {
    pub first_line: usize,
    /// At least one.
    pub tokens: usize,
    pub start: usize,
}

/// The rows of a step, on the GPU, cut into tiles; made once for all layers.
pub struct PrefillRows {
    /// [tiles, 2] u32: row, first query.
    tiles: Slice,
    /// [rows] u32 each.
    first_lines: Slice,
    counts: Slice,
    starts: Slice,
    rows: Vec<PrefillRow>,
}

/// Where keys and values are.
#[derive(Clone, Copy)]
pub enum KeyValues<'a> {
    /// In the store, those of this step included: a token sees what is not after it. `table` is [rows, max_blocks] u32.
    Paged { layer: &'a KvLayer, table: &'a Slice, max_blocks: usize },
    /// In this step's matrices [lines, kv_heads · head_dim]: a token sees its whole row, and before it the row's key-value prefix,
    /// keys and values [count, kv_heads · head_dim], if it has one. `prefixes` is empty or has an entry per row.
    BothWays { keys: Matrix<'a>, values: Matrix<'a>, prefixes: &'a [Option<(&'a Slice, &'a Slice)>] },
}

/// The rows of a step, cut into tiles, on their way to the GPU.
pub struct CutRows {
    /// Those of [`PrefillRows`], one after the other.
    numbers: Vec<u32>,
    tiles: usize,
    rows: Vec<PrefillRow>,
}

impl CutRows {
    /// Cuts rows into tiles.
    pub fn new(rows: Vec<PrefillRow>) -> Self {
        assert!(rows.iter().all(|row| row.tokens > 0), "a row has a token");
        let each = rows.iter().enumerate();
        let mut tiles: Vec<[u32; 2]> = each
            .flat_map(|(i, row)| (0..row.tokens).step_by(QUERIES).map(move |query| [count(i), count(query)]))
            .collect();
        // The longest first: nobody waits for one that began last.
        tiles.sort_by_key(|&[row, query]| Reverse(rows[row as usize].start + query as usize));
        let column = |f: fn(&PrefillRow) -> usize| rows.iter().map(move |row| count(f(row)));
        let numbers = tiles.concat().into_iter().chain(column(|row| row.first_line)).chain(column(|row| row.tokens));
        Self { numbers: numbers.chain(column(|row| row.start)).collect(), tiles: tiles.len(), rows }
    }

    /// What has to be brought to the GPU.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// What they have become there.
    ///
    /// # Panics
    /// If they are not as many, or do not begin at a multiple of 16 bytes.
    pub fn on_gpu(self, numbers: &Slice) -> PrefillRows {
        assert_eq!(numbers.len(), self.numbers.len(), "all numbers");
        assert!(numbers.aligned(), "pairs of numbers are read at once");
        let (starts, count) = (2 * self.tiles, self.rows.len());
        let [first_lines, counts, row_starts] =
            [0, 1, 2].map(|i| numbers.part(starts + i * count..starts + (i + 1) * count));
        PrefillRows { tiles: numbers.part(0..starts), first_lines, counts, starts: row_starts, rows: self.rows }
    }
}

/// The lines of `rows` in `out` [lines, heads · head_dim] = attention of `query` [lines, heads · head_dim]; other lines stay as
/// they are.
pub fn attend_prefill(
    gpu: &Arc<Gpu>,
    query: Matrix<'_>,
    heads: Heads,
    key_values: KeyValues<'_>,
    rows: &PrefillRows,
    scale: f32,
    out: &Slice,
) -> Result<(), GpuError> {
    let (dtype, lines, dim) = (query.dtype(), query.lines(), heads.head_dim);
    let group = heads.group();
    assert!(group > 0 && query.is(dtype, lines, heads.width()), "queries of {heads:?}");
    assert!(out.dtype() == dtype && out.len() == lines * heads.width(), "a result as large as the queries");
    assert!(dim <= WIDEST && dim.is_multiple_of(8), "heads of at most {WIDEST} numbers, a multiple of 8");
    assert!(heads.heads < 1 << 16, "as a grid allows");
    assert!(rows.rows.iter().all(|row| row.first_line + row.tokens <= lines), "rows inside the matrix");
    let mut args = vec![
        Arg::slice(&rows.tiles),
        Arg::slice(&rows.first_lines),
        Arg::slice(&rows.counts),
        Arg::slice(&rows.starts),
        query.pointer(),
        query.stride(),
        Arg::slice(out),
        Arg::count(heads.heads),
        Arg::count(heads.kv_heads),
        Arg::count(dim),
        Arg::F32(scale),
    ];
    let mut aligned = query.aligned() && out.aligned();
    // Alive until the kernel is launched; freed after it, in the stream's order.
    let mut entries = None;
    let paged = match key_values {
        KeyValues::Paged { layer, table, max_blocks } => {
            layer.check(dtype, heads);
            assert!(table.dtype() == Dtype::U32 && table.len() == rows.rows.len() * max_blocks, "blocks of each row");
            let fits = |row: &PrefillRow| row.start + row.tokens <= max_blocks * BLOCK_TOKENS;
            assert!(rows.rows.iter().all(fits), "rows of at most {max_blocks} blocks");
            args.extend([Arg::slice(&layer.keys), Arg::slice(&layer.values), Arg::slice(table)]);
            args.extend([Arg::count(max_blocks), Arg::count(layer.blocks)]);
            true
        }
        KeyValues::BothWays { keys, values, prefixes } => {
            assert!(
                [keys, values].iter().all(|x| x.is(dtype, lines, heads.kv_width())),
                "keys and values of {heads:?}"
            );
            aligned &= keys.aligned() && values.aligned();
            args.extend([keys.pointer(), keys.stride(), values.pointer(), values.stride()]);
            if prefixes.iter().any(Option::is_some) {
                assert_eq!(prefixes.len(), rows.rows.len(), "a prefix or none per row");
                let both = prefixes.iter().flatten().flat_map(|(keys, values)| [keys, values]);
                aligned &= both.into_iter().all(|x| x.aligned());
                entries = Some(prefix_entries(gpu, prefixes, &rows.tiles, dtype, heads.kv_width())?);
            }
            args.push(Arg::optional(entries.as_ref()));
            false
        }
    };
    let (source, name, threads, shared_bytes) = match tensor_kernel(dtype, dim, paged).filter(|_| aligned) {
        Some((name, keys)) => (&PREFILL, name, 128, (QUERIES + 2 * keys) * (dim + 8) * dtype.bytes()),
        None => (&PREFILL_PLAIN, plain_kernel(dtype, dim, paged), 256, 0),
    };
    let grid = (count(rows.tiles.len() / 2), count(heads.heads), 1);
    // SAFETY: shapes, dtypes and rows were checked; the kernel cuts blocks off at what there is.
    unsafe { gpu.launch(source, name, grid, threads, count(shared_bytes), &args) }
}

/// Per row: where keys and values of its prefix are, and how many; three u64.
fn prefix_entries(
    gpu: &Arc<Gpu>,
    prefixes: &[Option<(&Slice, &Slice)>],
    tiles: &Slice,
    dtype: Dtype,
    width: usize,
) -> Result<Slice, GpuError> {
    let entry = |prefix: &Option<(&Slice, &Slice)>| {
        let Some((keys, values)) = prefix else { return [0; 3] };
        assert!(keys.dtype() == dtype && values.dtype() == dtype, "prefixes are of the activations' dtype");
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "prefixes of {width} columns");
        [keys.pointer_for(tiles), values.pointer_for(tiles), (keys.len() / width) as u64]
    };
    let words = prefixes.iter().flat_map(entry).flat_map(|x| [x as u32, (x >> 32) as u32]);
    Slice::of_u32(gpu, &words.collect::<Vec<_>>())
}

/// The name of a kernel's instance for keys and values in the store, or in the step's matrices.
macro_rules! either {
    ($paged:expr, $in_store:literal, $in_step:literal, $dtype:expr) => {
        if $paged { instance!($in_store, $dtype) } else { instance!($in_step, $dtype) }
    };
}

/// The kernel for tensor cores, if there is one, and how many keys it stages.
fn tensor_kernel(dtype: Dtype, head_dim: usize, paged: bool) -> Option<(&'static str, usize)> {
    if dtype == Dtype::F32 {
        return None;
    }
    Some(match head_dim {
        32 => (either!(paged, "paged_tile_32", "ragged_tile_32", dtype), 64),
        64 => (either!(paged, "paged_tile_64", "ragged_tile_64", dtype), 64),
        80 => (either!(paged, "paged_tile_80", "ragged_tile_80", dtype), 64),
        96 => (either!(paged, "paged_tile_96", "ragged_tile_96", dtype), 64),
        128 => (either!(paged, "paged_tile_128", "ragged_tile_128", dtype), 64),
        256 => (either!(paged, "paged_tile_256", "ragged_tile_256", dtype), 32),
        _ => return None,
    })
}

fn plain_kernel(dtype: Dtype, head_dim: usize, paged: bool) -> &'static str {
    match head_dim {
        0..=64 => either!(paged, "paged_plain_64", "ragged_plain_64", dtype),
        65..=128 => either!(paged, "paged_plain_128", "ragged_plain_128", dtype),
        _ => either!(paged, "paged_plain_256", "ragged_plain_256", dtype),
    }
}

#[cfg(test)]
mod tests;
