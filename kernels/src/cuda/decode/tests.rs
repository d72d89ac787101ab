//! Attention of single tokens is what f64 says, and stores what `rotate_store` does; how fast it is.

use std::sync::Arc;

use super::*;
use crate::cuda::checks::*;
use crate::cuda::{BLOCK_TOKENS, rotate_store};

/// Rows whose tokens lie in random blocks of a store; what no row has is not a number, and so is each row's new token there.
struct Case {
    heads: Heads,
    dtype: Dtype,
    /// Keys and values, as [`KvLayer`] has them.
    store: [Vec<f32>; 2],
    blocks: usize,
    lengths: Vec<u32>,
    slots: Vec<u32>,
    table: Vec<u32>,
    max_blocks: usize,
    /// Queries, keys and values of the new tokens, and a few more columns: [rows, width].
    fused: Vec<f32>,
    positions: Vec<u32>,
    /// Absent where nothing is turned.
    inverse: Option<Vec<f32>>,
}

/// The same on the GPU.
struct Device {
    layer: KvLayer,
    fused: Slice,
    positions: Slice,
    inverse: Option<Slice>,
    slots: Slice,
    lengths: Slice,
    table: Slice,
    counters: Slice,
}

impl Case {
    fn new(rng: &mut StdRng, dtype: Dtype, heads: Heads, lengths: Vec<u32>, rotates: bool) -> Self {
        let needed = |&length: &u32| (length as usize).div_ceil(BLOCK_TOKENS);
        let max_blocks = lengths.iter().map(needed).max().unwrap_or(0) + 2;
        let blocks = lengths.iter().map(needed).sum::<usize>() + 3;
        let mut free: Vec<u32> = (0..blocks as u32).collect();
        (0..blocks).for_each(|i| free.swap(i, rng.random_range(i..blocks)));
        let mut store = [0, 1].map(|_| vec![f32::NAN; blocks * BLOCK_TOKENS * heads.kv_width()]);
        let (mut table, mut slots) = (Vec::new(), Vec::new());
        for &length in &lengths {
            let own: Vec<u32> = free.drain(..needed(&length)).collect();
            let slot = |token: usize| own[token / BLOCK_TOKENS] * BLOCK_TOKENS as u32 + (token % BLOCK_TOKENS) as u32;
            let stored = (length as usize).saturating_sub(1);
            for store in &mut store {
                let numbers = round(dtype, &uniform(rng, stored * heads.kv_width()));
                for (token, line) in numbers.chunks(heads.kv_width()).enumerate() {
                    let numbers = line.chunks(heads.head_dim).enumerate();
                    numbers.for_each(|(head, line)| {
                        store[in_store(heads, slot(token), head)..][..line.len()].copy_from_slice(line)
                    });
                }
            }
            slots.push(if length == 0 { u32::MAX } else { slot(stored) });
            // What no token needs is no block at all.
            table.extend(own.iter().copied().chain(std::iter::repeat(u32::MAX)).take(max_blocks));
        }
        let rows = lengths.len();
        let size = 1.0 + rng.random_range(0.0f32..4.0);
        let fused: Vec<f32> = uniform(rng, rows * width(heads)).iter().map(|x| x * size).collect();
        let positions = lengths.iter().map(|&length| length + rng.random_range(0..40_000)).collect();
        let frequency = |i| 10_000f32.powf(-2.0 * i as f32 / heads.head_dim as f32);
        let inverse = rotates.then(|| (0..heads.head_dim / 2).map(frequency).collect());
        let fused = round(dtype, &fused);
        Self { heads, dtype, store, blocks, lengths, slots, table, max_blocks, fused, positions, inverse }
    }

    fn on(&self, gpu: &Arc<Gpu>) -> Device {
        let Heads { kv_heads, head_dim, .. } = self.heads;
        let floats = |dtype, numbers: &[f32]| Slice::of(gpu, dtype, numbers).expect("memory");
        let words = |numbers: &[u32]| Slice::of_u32(gpu, numbers).expect("memory");
        let [keys, values] = self.store.each_ref().map(|numbers| floats(self.dtype, numbers));
        Device {
            layer: KvLayer { keys, values, blocks: self.blocks, kv_heads, head_dim },
            fused: floats(self.dtype, &self.fused),
            positions: words(&self.positions),
            inverse: self.inverse.as_ref().map(|inverse| floats(Dtype::F32, inverse)),
            slots: words(&self.slots),
            lengths: words(&self.lengths),
            table: words(&self.table),
            counters: words(&vec![0; decode_counters_len(self.lengths.len(), self.heads)]),
        }
    }

    /// One row of the case.
    fn row(&self, row: usize) -> Self {
        Self {
            store: self.store.clone(),
            lengths: vec![self.lengths[row]],
            slots: vec![self.slots[row]],
            table: self.table[row * self.max_blocks..][..self.max_blocks].to_vec(),
            fused: self.fused[row * width(self.heads)..][..width(self.heads)].to_vec(),
            positions: vec![self.positions[row]],
            inverse: self.inverse.clone(),
            ..*self
        }
    }

    /// What comes of turned queries [rows, width] over a store that has the new tokens.
    fn exact(&self, turned: &[f32], store: [&[f32]; 2], scale: f32) -> Vec<f64> {
        let (heads, dim) = (self.heads, self.heads.head_dim);
        let mut out = Vec::new();
        for (row, line) in turned.chunks(width(heads)).enumerate() {
            for (head, query) in line[..heads.width()].chunks(dim).enumerate() {
                let tokens = (0..self.lengths[row] as usize).map(|token| {
                    let block = self.table[row * self.max_blocks + token / BLOCK_TOKENS];
                    let slot = block * BLOCK_TOKENS as u32 + (token % BLOCK_TOKENS) as u32;
                    let at = in_store(heads, slot, head / heads.group());
                    (&store[0][at..at + dim], &store[1][at..at + dim])
                });
                match self.lengths[row] {
                    0 => out.extend(vec![0.0; dim]),
                    _ => out.extend(attention(query, tokens, scale)),
                }
            }
        }
        out
    }
}

/// Columns of the matrix that new tokens come in: not all are theirs.
fn width(heads: Heads) -> usize {
    heads.width() + 2 * heads.kv_width() + 16
}

/// Where a head's numbers of a slot begin.
fn in_store(heads: Heads, slot: u32, head: usize) -> usize {
    let (block, place) = (slot as usize / BLOCK_TOKENS, slot as usize % BLOCK_TOKENS);
    ((block * heads.kv_heads + head) * BLOCK_TOKENS + place) * heads.head_dim
}

impl Device {
    /// Queries, keys and values.
    fn parts(&self, heads: Heads) -> [Matrix<'_>; 3] {
        let (matrix, q, kv) = (Matrix::new(&self.fused, width(heads)), heads.width(), heads.kv_width());
        [matrix.columns(0..q), matrix.columns(q..q + kv), matrix.columns(q + kv..q + 2 * kv)]
    }

    fn rotary(&self) -> Option<Rotary<'_>> {
        let inverse_frequencies = self.inverse.as_ref()?;
        Some(Rotary { positions: &self.positions, inverse_frequencies })
    }

    fn step<'a>(&'a self, case: &Case, splits: usize, scratch: &'a Slice, ahead: Option<&'a Slice>) -> Decode<'a> {
        let [query, key, value] = self.parts(case.heads);
        Decode {
            query,
            key,
            value,
            rotary: self.rotary(),
            slots: &self.slots,
            lengths: &self.lengths,
            table: &self.table,
            max_blocks: case.max_blocks,
            splits,
            scratch: (splits > 1).then_some(scratch),
            counters: &self.counters,
            ahead,
        }
    }

    /// Attends in `splits`.
    fn run(&self, gpu: &Arc<Gpu>, case: &Case, splits: usize, scale: f32) -> Vec<f32> {
        let rows = case.lengths.len();
        let scratch = poisoned(gpu, Dtype::F32, decode_scratch_len(rows, splits, case.heads));
        let out = poisoned(gpu, case.dtype, rows * case.heads.width());
        // Whatever is brought ahead, in part or whole, changes nothing.
        let ahead = splits.is_multiple_of(2).then(|| self.layer.keys.part(splits..self.layer.keys.len()));
        let step = self.step(case, splits, &scratch, ahead.as_ref());
        attend_decode(gpu, case.heads, &self.layer, step, scale, &out).expect("launch");
        out.to_f32().expect("copy")
    }
}

/// Whether stores are the same to the bit, and what is not a number is the same.
fn same_store(a: &KvLayer, b: &KvLayer) -> bool {
    let numbers = |layer: &KvLayer| [&layer.keys, &layer.values].map(|x| x.to_f32().expect("copy")).concat();
    numbers(a).iter().zip(&numbers(b)).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
}

#[test]
#[ignore = "needs a GPU"]
fn rows_attend_to_all_their_tokens() {
    let (gpu, mut rng) = (gpu(), rng(50));
    let dims = [8, 32, 40, 64, 80, 96, 128, 256];
    for (dtype, head_dim) in DTYPES.into_iter().flat_map(|dtype| dims.map(|dim| (dtype, dim))) {
        for group in [1, 2, 3, 4, 5, 7, 8, 12] {
            let kv_heads = rng.random_range(1..4);
            let heads = Heads { heads: kv_heads * group, kv_heads, head_dim };
            let rows = rng.random_range(1..6);
            let most = if group == 4 { 3000 } else { 200 };
            let mut lengths: Vec<u32> = (0..rows).map(|_| rng.random_range(1..=most)).collect();
            lengths.insert(rng.random_range(0..=rows), 0);
            // A new token that ends a block, or a split; one that begins it; one that is alone.
            lengths.extend([16, pick(&mut rng, &[64, 128]), pick(&mut rng, &[17, 65, 129]), 1]);
            let case = Case::new(&mut rng, dtype, heads, lengths, group != 5);
            let scale = 1.0 / (head_dim as f32).sqrt();

            let two_launches = case.on(&gpu);
            let [query, key, value] = two_launches.parts(heads);
            let store = Some((&two_launches.layer, &two_launches.slots));
            rotate_store(&gpu, query, key, value, heads, two_launches.rotary(), store).expect("launch");
            let turned = two_launches.fused.to_f32().expect("copy");
            let [keys, values] =
                [&two_launches.layer.keys, &two_launches.layer.values].map(|x| x.to_f32().expect("copy"));
            let exact = case.exact(&turned, [&keys, &values], scale);
            for splits in [1, 2, 3, 8, 16, 32] {
                let device = case.on(&gpu);
                let out = device.run(&gpu, &case, splits, scale);
                let what = format!("{dtype:?} {heads:?} {:?} in {splits}", case.lengths);
                assert_within(&out, &exact, tolerance(dtype), &what);
                let padding = out.chunks(heads.width()).zip(&case.lengths).filter(|(_, length)| **length == 0);
                assert!(padding.flat_map(|(line, _)| line).all(|x| *x == 0.0), "{what}: padding");
                assert!(same_store(&device.layer, &two_launches.layer), "{what}: the store");
                assert_same(&device.fused.to_f32().expect("copy"), &case.fused, &format!("{what}: the matrix"));
                assert_eq!(device.counters.to_u32().expect("copy").iter().max(), Some(&0), "{what}: counters");
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn launches_after_each_other_give_the_same_bits() {
    let (gpu, mut rng) = (gpu(), rng(53));
    let heads = Heads { heads: 32, kv_heads: 8, head_dim: 64 };
    for (dtype, splits) in DTYPES.into_iter().flat_map(|dtype| (1..=16).map(move |splits| (dtype, splits))) {
        let case = Case::new(&mut rng, dtype, heads, vec![1100, 0, 257, 80], true);
        let device = case.on(&gpu);
        let first = device.run(&gpu, &case, splits, 0.125);
        for time in 0..20 {
            let again = device.run(&gpu, &case, splits, 0.125);
            assert_same(&again, &first, &format!("{dtype:?} in {splits}, time {time}"));
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn what_has_no_slot_is_seen_and_not_stored() {
    let (gpu, mut rng) = (gpu(), rng(54));
    let heads = Heads { heads: 12, kv_heads: 3, head_dim: 64 };
    let mut case = Case::new(&mut rng, Dtype::Bf16, heads, vec![70, 300, 5], true);
    for splits in [1, 4] {
        let stored = case.on(&gpu).run(&gpu, &case, splits, 0.125);
        let slots = std::mem::replace(&mut case.slots, vec![u32::MAX; 3]);
        let device = case.on(&gpu);
        assert_same(&device.run(&gpu, &case, splits, 0.125), &stored, &format!("in {splits}"));
        assert!(same_store(&device.layer, &case.on(&gpu).layer), "in {splits}: the store");
        case.slots = slots;
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_row_alone_and_among_others_has_the_same_bits() {
    let (gpu, mut rng) = (gpu(), rng(51));
    let heads = Heads { heads: 8, kv_heads: 2, head_dim: 64 };
    for dtype in DTYPES {
        let case = Case::new(&mut rng, dtype, heads, vec![700, 33, 0, 1201], true);
        for splits in [1, 4] {
            let all = case.on(&gpu).run(&gpu, &case, splits, 0.125);
            for row in 0..4 {
                let alone = case.row(row);
                let out = alone.on(&gpu).run(&gpu, &alone, splits, 0.125);
                let own = row * heads.width()..(row + 1) * heads.width();
                assert_same(&out, &all[own], &format!("{dtype:?} row {row} in {splits}"));
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU; prints how fast it is"]
fn decode_attention_bandwidth() {
    const TIMES: usize = 100;
    let (gpu, mut rng, dtype) = (gpu(), rng(52), Dtype::Bf16);
    for (name, heads, kv_heads, head_dim) in [("135M", 9, 3, 64), ("1B", 32, 8, 64), ("8B", 32, 8, 128)] {
        let heads = Heads { heads, kv_heads, head_dim };
        for (rows, length) in [1, 8, 32, 64].into_iter().flat_map(|rows| [128, 512, 2048].map(|length| (rows, length)))
        {
            let case = Case::new(&mut rng, dtype, heads, vec![length; rows], true);
            let device = case.on(&gpu);
            let out = poisoned(&gpu, dtype, rows * heads.width());
            let bytes = 2 * rows * length as usize * heads.kv_width() * dtype.bytes();
            let each = [1, 2, 4, 8, 16, 32].map(|splits| {
                let scratch = poisoned(&gpu, Dtype::F32, decode_scratch_len(rows, splits, heads));
                let step = device.step(&case, splits, &scratch, None);
                let seconds = seconds(&gpu, TIMES, |_| attend_decode(&gpu, heads, &device.layer, step, 0.088, &out));
                format!("{splits}: {:.1} µs, {:.0} GB/s", seconds * 1e6, bytes as f64 / seconds / 1e9)
            });
            println!("{name}, {rows} rows of {length}, by splits: {}", each.join("; "));
        }
    }
}
