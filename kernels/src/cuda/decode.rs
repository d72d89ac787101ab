//! Attention of one new token per row over the paged store.

use super::gpu::{Arg, count, instance};
use super::sources::DECODE;
use super::{Dtype, Gpu, GpuError, Heads, KvLayer, Matrix, Slice};

/// Threads of a block.
const THREADS: u32 = 128;

/// The widest head: 32 lanes with eight numbers each.
const WIDEST: usize = 256;

/// What the rows of a step see. Grids depend on lengths of slices alone and not on what is in them: a captured graph stays good.
#[derive(Clone, Copy)]
pub struct Decode<'a> {
    /// Tokens that each row sees, its new one included: `[rows]` u32. 0 is padding: its line of `out` is zero.
    pub lengths: &'a Slice,
    /// Blocks of each row: [rows, max_blocks] u32.
    pub table: &'a Slice,
    pub max_blocks: usize,
    /// In how many parts each row's tokens are computed side by side. The order of sums depends on this and the length alone.
    pub splits: usize,
    /// [`decode_scratch_len`] numbers of f32, or more; not looked at with one split.
    pub scratch: Option<&'a Slice>,
}

/// How many f32 numbers [`attend_decode`] needs beside its result.
pub fn decode_scratch_len(rows: usize, splits: usize, heads: Heads) -> usize {
    if splits == 1 { 0 } else { rows * splits * heads.heads * (heads.head_dim + 2) }
}

/// `out` [rows, heads · head_dim] = attention of `query` [rows, heads · head_dim] over what the store holds of each row.
pub fn attend_decode(
    gpu: &Gpu,
    query: Matrix<'_>,
    heads: Heads,
    layer: &KvLayer,
    step: Decode<'_>,
    scale: f32,
    out: &Slice,
) -> Result<(), GpuError> {
    let Decode { lengths, table, max_blocks, splits, scratch } = step;
    let (dtype, rows, group) = (query.dtype(), query.lines(), heads.group());
    assert!(query.is(dtype, rows, heads.width()), "queries of {heads:?}");
    assert!(out.dtype() == dtype && out.len() == rows * heads.width(), "a result as large as the queries");
    assert!(heads.head_dim <= WIDEST, "heads of at most {WIDEST} numbers");
    layer.check(dtype, heads);
    assert!(lengths.dtype() == Dtype::U32 && lengths.len() == rows, "a length per row");
    assert!(table.dtype() == Dtype::U32 && table.len() == rows * max_blocks, "{max_blocks} blocks per row");
    // More than this is more tokens than are counted.
    assert!(max_blocks < 1 << 27 && splits > 0 && splits < 1 << 16 && rows < 1 << 16, "as a grid allows");
    if splits > 1 {
        let scratch = scratch.expect("splits need scratch memory");
        let needed = decode_scratch_len(rows, splits, heads);
        assert!(scratch.dtype() == Dtype::F32 && scratch.len() >= needed, "{needed} numbers of scratch memory");
        assert!(scratch.pointer().is_multiple_of(8), "scratch memory for pairs");
    }
    let (name, together) = kernel(dtype, group, heads.head_dim);
    let args = [
        query.pointer(),
        query.stride(),
        Arg::slice(&layer.keys),
        Arg::slice(&layer.values),
        Arg::slice(lengths),
        Arg::slice(table),
        Arg::count(max_blocks),
        Arg::count(layer.blocks),
        Arg::count(heads.heads),
        Arg::count(heads.kv_heads),
        Arg::count(heads.head_dim),
        Arg::F32(scale),
        Arg::slice(out),
        Arg::optional(scratch),
    ];
    let grid = (count(heads.kv_heads * group.div_ceil(together)), count(splits), count(rows));
    // SAFETY: shapes and dtypes were checked; the kernel cuts lengths and blocks off at what there is.
    unsafe { gpu.launch(&DECODE, name, grid, THREADS, 0, &args) }?;
    if splits == 1 {
        return Ok(());
    }
    let args = [Arg::optional(scratch), Arg::slice(out), Arg::count(splits), Arg::count(heads.head_dim)];
    let threads = count(heads.head_dim.next_multiple_of(32));
    let grid = (count(heads.heads), count(rows), 1);
    // SAFETY: as above; the scratch memory was written by the kernel before.
    unsafe { gpu.launch(&DECODE, instance!("combine", dtype), grid, threads, 0, &args) }
}

/// The kernel for groups of query heads of a width, and how many query heads it takes together.
fn kernel(dtype: Dtype, group: usize, head_dim: usize) -> (&'static str, usize) {
    let together = group.next_power_of_two().min(8);
    let lanes = head_dim.div_ceil(8).next_power_of_two().max(8);
    let name = match (together, lanes) {
        (1, 8) => instance!("decode_1_8", dtype),
        (2, 8) => instance!("decode_2_8", dtype),
        (4, 8) => instance!("decode_4_8", dtype),
        (_, 8) => instance!("decode_8_8", dtype),
        (1, 16) => instance!("decode_1_16", dtype),
        (2, 16) => instance!("decode_2_16", dtype),
        (4, 16) => instance!("decode_4_16", dtype),
        (_, 16) => instance!("decode_8_16", dtype),
        (1, _) => instance!("decode_1_32", dtype),
        (2, _) => instance!("decode_2_32", dtype),
        (4, _) => instance!("decode_4_32", dtype),
        _ => instance!("decode_8_32", dtype),
    };
    (name, together)
}

#[cfg(test)]
mod tests;
