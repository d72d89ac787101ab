//! Attention of single tokens is what f64 says; how fast it is.

use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::cuda::BLOCK_TOKENS;
use crate::cuda::checks::*;

/// Rows whose tokens lie in random blocks of a store; what no row has is not a number.
struct Case {
    layer: KvLayer,
    /// Per row, keys and values [length, kv_heads · head_dim].
    tokens: Vec<[Vec<f32>; 2]>,
    lengths: Vec<u32>,
    table: Vec<u32>,
    max_blocks: usize,
}

impl Case {
    fn new(gpu: &Arc<Gpu>, rng: &mut StdRng, dtype: Dtype, heads: Heads, lengths: Vec<u32>) -> Self {
        let Heads { kv_heads, head_dim, .. } = heads;
        let needed = |&length: &u32| (length as usize).div_ceil(BLOCK_TOKENS);
        let max_blocks = lengths.iter().map(needed).max().unwrap_or(0) + 2;
        let blocks = lengths.iter().map(needed).sum::<usize>() + 3;
        let mut free: Vec<u32> = (0..blocks as u32).collect();
        (0..blocks).for_each(|i| free.swap(i, rng.random_range(i..blocks)));
        let mut store = [0, 1].map(|_| vec![f32::NAN; blocks * BLOCK_TOKENS * heads.kv_width()]);
        let mut table = Vec::new();
        let mut tokens = Vec::new();
        for &length in &lengths {
            let own: Vec<u32> = free.drain(..needed(&length)).collect();
            let numbers = [0, 1].map(|_| round(dtype, &uniform(rng, length as usize * heads.kv_width())));
            for (store, numbers) in store.iter_mut().zip(&numbers) {
                for (token, line) in numbers.chunks(heads.kv_width()).enumerate() {
                    for (head, line) in line.chunks(head_dim).enumerate() {
                        let block = own[token / BLOCK_TOKENS] as usize;
                        let at = ((block * kv_heads + head) * BLOCK_TOKENS + token % BLOCK_TOKENS) * head_dim;
                        store[at..at + head_dim].copy_from_slice(line);
                    }
                }
            }
            // What no token needs is no block at all.
            table.extend(own.iter().copied().chain(std::iter::repeat(u32::MAX)).take(max_blocks));
            tokens.push(numbers);
        }
        let [keys, values] = store.map(|numbers| Slice::of(gpu, dtype, &numbers).expect("memory"));
        let layer = KvLayer { keys, values, blocks, kv_heads, head_dim };
        Self { layer, tokens, lengths, table, max_blocks }
    }

    fn exact(&self, query: &[f32], heads: Heads, scale: f32) -> Vec<f64> {
        let (dim, width) = (heads.head_dim, heads.kv_width());
        let mut out = Vec::new();
        for (query, [keys, values]) in query.chunks(heads.width()).zip(&self.tokens) {
            for (head, query) in query.chunks(dim).enumerate() {
                let at = head / heads.group() * dim;
                let pairs = keys.chunks(width).zip(values.chunks(width));
                let pairs = pairs.map(|(key, value)| (&key[at..at + dim], &value[at..at + dim]));
                match keys.is_empty() {
                    true => out.extend(vec![0.0; dim]),
                    false => out.extend(attention(query, pairs, scale)),
                }
            }
        }
        out
    }
}

/// Runs a case with `splits`; `query` [rows, heads · head_dim] stands in a wider matrix.
fn run(gpu: &Arc<Gpu>, case: &Case, query: &[f32], dtype: Dtype, heads: Heads, splits: usize, scale: f32) -> Slice {
    let rows = case.lengths.len();
    let wider: Vec<f32> = query.chunks(heads.width()).flat_map(|line| [line, &[f32::NAN; 16]].concat()).collect();
    let wider = Slice::of(gpu, dtype, &wider).expect("memory");
    let [lengths, table] = [&case.lengths, &case.table].map(|x| Slice::of_u32(gpu, x).expect("memory"));
    let scratch = poisoned(gpu, Dtype::F32, decode_scratch_len(rows, splits, heads));
    let out = poisoned(gpu, dtype, query.len());
    let query = Matrix::new(&wider, heads.width() + 16).columns(0..heads.width());
    let step = Decode {
        lengths: &lengths,
        table: &table,
        max_blocks: case.max_blocks,
        splits,
        scratch: (splits > 1).then_some(&scratch),
    };
    attend_decode(gpu, query, heads, &case.layer, step, scale, &out).expect("launch");
    out
}

#[test]
#[ignore = "needs a GPU"]
fn rows_attend_to_all_their_tokens() {
    let (gpu, mut rng) = (gpu(), rng(50));
    let dims = [32, 40, 64, 80, 96, 128, 256];
    for (dtype, head_dim) in DTYPES.into_iter().flat_map(|dtype| dims.map(|dim| (dtype, dim))) {
        for group in [1, 2, 3, 4, 5, 7, 8, 12] {
            let kv_heads = rng.random_range(1..4);
            let heads = Heads { heads: kv_heads * group, kv_heads, head_dim };
            let rows = rng.random_range(1..6);
            let most = if group == 4 { 3000 } else { 200 };
            let mut lengths: Vec<u32> = (0..rows).map(|_| rng.random_range(1..=most)).collect();
            lengths.insert(rng.random_range(0..=rows), 0);
            lengths.push(16);
            let case = Case::new(&gpu, &mut rng, dtype, heads, lengths);
            let scores = 1.0 + rng.random_range(0.0f32..4.0);
            let query: Vec<f32> =
                uniform(&mut rng, case.lengths.len() * heads.width()).iter().map(|x| x * scores).collect();
            let query = round(dtype, &query);
            let scale = 1.0 / (head_dim as f32).sqrt();
            let exact = case.exact(&query, heads, scale);
            for splits in [1, 2, 3, 8] {
                let out = run(&gpu, &case, &query, dtype, heads, splits, scale);
                let what = format!("{dtype:?} {heads:?} {:?} in {splits}", case.lengths);
                assert_close(&out, &exact, &what);
                let lines = out.to_f32().expect("copy");
                let padding = lines.chunks(heads.width()).zip(&case.lengths).filter(|(_, length)| **length == 0);
                assert!(padding.flat_map(|(line, _)| line).all(|x| *x == 0.0), "{what}: padding");
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_row_alone_and_among_others_has_the_same_bits() {
    let (gpu, mut rng) = (gpu(), rng(51));
    let heads = Heads { heads: 8, kv_heads: 2, head_dim: 64 };
    for dtype in DTYPES {
        let case = Case::new(&gpu, &mut rng, dtype, heads, vec![700, 33, 0, 1201]);
        let query = round(dtype, &uniform(&mut rng, 4 * heads.width()));
        for splits in [1, 4] {
            let all = run(&gpu, &case, &query, dtype, heads, splits, 0.125).to_f32().expect("copy");
            for row in 0..4 {
                let alone = Case {
                    layer: case.layer.clone(),
                    tokens: vec![],
                    lengths: vec![case.lengths[row]],
                    table: case.table[row * case.max_blocks..][..case.max_blocks].to_vec(),
                    max_blocks: case.max_blocks,
                };
                let own = row * heads.width()..(row + 1) * heads.width();
                let out = run(&gpu, &alone, &query[own.clone()], dtype, heads, splits, 0.125);
                assert_eq!(out.to_f32().expect("copy"), all[own], "{dtype:?} row {row} in {splits}");
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU; prints how fast it is"]
fn decode_attention_bandwidth() {
    const TIMES: usize = 100;
    let (gpu, mut rng) = (gpu(), rng(52));
    let heads = Heads { heads: 32, kv_heads: 8, head_dim: 128 };
    let (rows, length, dtype) = (32, 1024, Dtype::Bf16);
    let case = Case::new(&gpu, &mut rng, dtype, heads, vec![length; rows]);
    let query = Slice::of(&gpu, dtype, &uniform(&mut rng, rows * heads.width())).expect("memory");
    let [lengths, table] = [&case.lengths, &case.table].map(|x| Slice::of_u32(&gpu, x).expect("memory"));
    let out = poisoned(&gpu, dtype, rows * heads.width());
    for splits in [1, 2, 4, 8] {
        let scratch = poisoned(&gpu, Dtype::F32, decode_scratch_len(rows, splits, heads));
        let attend = || {
            let (lengths, table, scratch) = (&lengths, &table, Some(&scratch));
            let step = Decode { lengths, table, max_blocks: case.max_blocks, splits, scratch };
            let query = Matrix::new(&query, heads.width());
            attend_decode(&gpu, query, heads, &case.layer, step, 0.088, &out).expect("launch");
        };
        attend();
        gpu.synchronize().expect("done");
        let start = Instant::now();
        (0..TIMES).for_each(|_| attend());
        gpu.synchronize().expect("done");
        let seconds = start.elapsed().as_secs_f64() / TIMES as f64;
        let bytes = 2 * rows * length as usize * heads.kv_width() * dtype.bytes();
        println!("{splits} splits: {:.1} µs, {:.0} GB/s", seconds * 1e6, bytes as f64 / seconds / 1e9);
    }
}
