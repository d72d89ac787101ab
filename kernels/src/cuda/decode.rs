//! Attention of one new token per row over the paged store.

use super::gpu::{Arg, count, instance};
use super::sources::DECODE;
use super::{Dtype, Gpu, GpuError, Heads, KvLayer, Matrix, Rotary, Slice};

/// Threads of a block.
const THREADS: u32 = 128;

/// The widest head: 32 lanes with eight numbers each.
const WIDEST: usize = 256;

/// Query heads that a block takes, at most.
const MOST_TOGETHER: usize = 8;

/// The most parts that a row's tokens are computed in: a lane looks at each.
pub const MOST_SPLITS: usize = 32;

/// New tokens, one per row, and what they see. Grids depend on lengths of slices alone and not on what is in them: a captured
/// graph stays good.
#[derive(Clone, Copy)]
pub struct Decode<'a> {
    /// [rows, heads · head_dim]; as it is before rotation, which changes nothing here.
    pub query: Matrix<'a>,
    /// [rows, kv_heads · head_dim], likewise.
    pub key: Matrix<'a>,
    /// [rows, kv_heads · head_dim].
    pub value: Matrix<'a>,
    pub rotary: Option<Rotary<'a>>,
    /// Where the new tokens are stored, as for [`rotate_store`](super::rotate_store): `[rows]` u32. No other row may see them yet.
    pub slots: &'a Slice,
    /// Tokens that each row sees, its new one included, which is the last: `[rows]` u32. 0 is padding: nothing is stored, and its
    /// line of the result is zero.
    pub lengths: &'a Slice,
    /// Blocks of each row: [rows, max_blocks] u32.
    pub table: &'a Slice,
    pub max_blocks: usize,
    /// In how many parts each row's tokens are computed side by side, at most: up to [`MOST_SPLITS`]. The order of sums depends
    /// on this and the length alone.
    pub splits: usize,
    /// [`decode_scratch_len`] numbers of f32, or more; not looked at with one split.
    pub scratch: Option<&'a Slice>,
    /// [`decode_counters_len`] u32, or more: 0 before, and 0 again after.
    pub counters: &'a Slice,
    /// What the next launch reads first: it is brought to the L2 cache meanwhile.
    pub ahead: Option<&'a Slice>,
}

/// How many f32 numbers [`attend_decode`] needs beside its result.
pub fn decode_scratch_len(rows: usize, splits: usize, heads: Heads) -> usize {
    if splits == 1 { 0 } else { rows * splits * heads.heads * (heads.head_dim + 2) }
}

/// How many u32 numbers [`attend_decode`] counts with.
pub fn decode_counters_len(rows: usize, heads: Heads) -> usize {
    rows * heads.kv_heads * heads.group().div_ceil(MOST_TOGETHER)
}

/// Turns and stores the rows' new tokens as [`rotate_store`](super::rotate_store) does, but for the matrices, which stay as they
/// are. `out` [rows, heads · head_dim] = attention of their queries over what the store then holds of each row.
pub fn attend_decode(
    gpu: &Gpu,
    heads: Heads,
    layer: &KvLayer,
    step: Decode<'_>,
    scale: f32,
    out: &Slice,
) -> Result<(), GpuError> {
    let Decode { query, key, value, slots, lengths, table, max_blocks, splits, scratch, counters, .. } = step;
    let (dtype, rows, group) = (query.dtype(), query.lines(), heads.group());
    assert!(query.is(dtype, rows, heads.width()), "queries of {heads:?}");
    assert!([key, value].iter().all(|x| x.is(dtype, rows, heads.kv_width())), "keys and values of {heads:?}");
    assert!(out.dtype() == dtype && out.len() == rows * heads.width(), "a result as large as the queries");
    assert!(heads.head_dim <= WIDEST, "heads of at most {WIDEST} numbers");
    layer.check(dtype, heads);
    let per_row = |x: &Slice| x.dtype() == Dtype::U32 && x.len() == rows;
    assert!(per_row(lengths) && per_row(slots), "a length and a slot per row");
    assert!(table.dtype() == Dtype::U32 && table.len() == rows * max_blocks, "{max_blocks} blocks per row");
    // More than this is more tokens than are counted.
    assert!(max_blocks < 1 << 27 && rows < 1 << 16, "as a grid allows");
    assert!((1..=MOST_SPLITS).contains(&splits), "{splits} splits: from 1 to {MOST_SPLITS}");
    if splits > 1 {
        let scratch = scratch.expect("splits need scratch memory");
        let needed = decode_scratch_len(rows, splits, heads);
        assert!(scratch.dtype() == Dtype::F32 && scratch.len() >= needed, "{needed} numbers of scratch memory");
        assert!(scratch.aligned(), "scratch memory begins at a multiple of 16 bytes");
        let needed = decode_counters_len(rows, heads);
        assert!(counters.dtype() == Dtype::U32 && counters.len() >= needed, "{needed} counters");
    }
    let [positions, inverse] = Rotary::args(step.rotary, rows, heads);
    let (name, together) = kernel(dtype, group, heads.head_dim);
    let args = [
        query.pointer(),
        query.stride(),
        key.pointer(),
        key.stride(),
        value.pointer(),
        value.stride(),
        positions,
        inverse,
        Arg::slice(&layer.keys),
        Arg::slice(&layer.values),
        Arg::slice(slots),
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
        Arg::slice(counters),
        Arg::optional(step.ahead),
        Arg::U32(step.ahead.map_or(0, |ahead| u32::try_from(ahead.bytes()).unwrap_or(u32::MAX))),
    ];
    let grid = (count(heads.kv_heads * group.div_ceil(together)), count(splits), count(rows));
    // SAFETY: shapes and dtypes were checked; the kernel cuts lengths and blocks off at what there is, and leaves out slots
    // outside the store.
    unsafe { gpu.launch(&DECODE, name, grid, THREADS, 0, &args) }
}

/// The kernel for groups of query heads of a width, and how many query heads it takes together.
fn kernel(dtype: Dtype, group: usize, head_dim: usize) -> (&'static str, usize) {
    let together = group.next_power_of_two().min(MOST_TOGETHER);
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
