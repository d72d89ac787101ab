//! Attention of many tokens is what f64 says.

use super::*;
use crate::cuda::checks::*;

const DIMS: [usize; 9] = [8, 32, 40, 64, 80, 96, 128, 200, 256];

/// Rows one after the other, a line that belongs to none between them; also the number of lines.
fn rows(rng: &mut StdRng, longest: usize, starts: bool) -> (Vec<PrefillRow>, usize) {
    let mut lines = 0;
    let rows = (0..rng.random_range(1..5)).map(|_| {
        let tokens = rng.random_range(1..=longest);
        let start = if starts && rng.random_bool(0.7) { rng.random_range(0..3 * longest) } else { 0 };
        let row = PrefillRow { first_line: lines, tokens, start };
        lines += tokens + 1;
        row
    });
    (rows.collect(), lines)
}

fn brought(gpu: &Arc<Gpu>, rows: &[PrefillRow]) -> PrefillRows {
    let cut = CutRows::new(rows.to_vec());
    let numbers = Slice::of_u32(gpu, cut.numbers()).expect("memory");
    cut.on_gpu(&numbers)
}

/// Which lines belong to a row.
fn owned(rows: &[PrefillRow], lines: usize) -> Vec<bool> {
    (0..lines)
        .map(|line| rows.iter().any(|row| (row.first_line..row.first_line + row.tokens).contains(&line)))
        .collect()
}

/// Compares the lines of rows; the others must not have been written.
fn check(out: &Slice, exact: &[f64], gpu: &Arc<Gpu>, rows: &[PrefillRow], width: usize, what: &str) {
    let numbers = out.to_f32().expect("copy");
    let owned = owned(rows, numbers.len() / width);
    let lines = || numbers.chunks(width).zip(&owned);
    assert!(
        lines().filter(|(_, owned)| !**owned).flat_map(|(line, _)| line).all(|x| x.is_nan()),
        "{what}: other lines"
    );
    let own: Vec<f32> = lines().filter(|(_, owned)| **owned).flat_map(|(line, _)| line.to_vec()).collect();
    assert_close(&Slice::of(gpu, out.dtype(), &own).expect("memory"), exact, what);
}

fn cases(rng: &mut StdRng) -> Vec<(Dtype, Heads, usize)> {
    let all = DTYPES.into_iter().flat_map(|dtype| DIMS.map(|dim| (dtype, dim)));
    let all = all.flat_map(|(dtype, head_dim)| [1, 2, 3, 8].map(|group| (dtype, head_dim, group)));
    all.map(|(dtype, head_dim, group)| {
        let kv_heads = rng.random_range(1..3);
        let longest = if group == 2 { 200 } else { 70 };
        (dtype, Heads { heads: kv_heads * group, kv_heads, head_dim }, longest)
    })
    .collect()
}

#[test]
#[ignore = "needs a GPU"]
fn tokens_see_what_is_stored_up_to_themselves() {
    let (gpu, mut rng) = (gpu(), rng(60));
    for (dtype, heads, longest) in cases(&mut rng) {
        let (dim, width, kv_width) = (heads.head_dim, heads.width(), heads.kv_width());
        let (rows, lines) = rows(&mut rng, longest, true);
        let needed = |row: &PrefillRow| (row.start + row.tokens).div_ceil(BLOCK_TOKENS);
        let max_blocks = rows.iter().map(needed).max().unwrap_or(0) + 1;
        let blocks = rows.iter().map(needed).sum::<usize>() + 2;
        let mut free: Vec<u32> = (0..blocks as u32).collect();
        (0..blocks).for_each(|i| free.swap(i, rng.random_range(i..blocks)));
        let mut table = Vec::new();
        let mut store = [0, 1].map(|_| vec![f32::NAN; blocks * BLOCK_TOKENS * kv_width]);
        let query: Vec<f32> = uniform(&mut rng, lines * width).iter().map(|x| 4.0 * x).collect();
        let query = round(dtype, &query);
        let scale = 1.0 / (dim as f32).sqrt();
        let mut exact = Vec::new();
        for row in &rows {
            let own: Vec<u32> = free.drain(..needed(row)).collect();
            let tokens = row.start + row.tokens;
            let numbers = [0, 1].map(|_| round(dtype, &uniform(&mut rng, tokens * kv_width)));
            for (store, numbers) in store.iter_mut().zip(&numbers) {
                for (i, line) in numbers.chunks(dim).enumerate() {
                    let (token, head) = (i / heads.kv_heads, i % heads.kv_heads);
                    let block = own[token / BLOCK_TOKENS] as usize;
                    let at = ((block * heads.kv_heads + head) * BLOCK_TOKENS + token % BLOCK_TOKENS) * dim;
                    store[at..at + dim].copy_from_slice(line);
                }
            }
            table.extend(own.iter().copied().chain(std::iter::repeat(u32::MAX)).take(max_blocks));
            for token in 0..row.tokens {
                let line = &query[(row.first_line + token) * width..][..width];
                for (head, query) in line.chunks(dim).enumerate() {
                    let at = head / heads.group() * dim;
                    let [keys, values] = numbers.each_ref().map(|x| x.chunks(kv_width).map(move |x| &x[at..at + dim]));
                    exact.extend(attention(query, keys.zip(values).take(row.start + token + 1), scale));
                }
            }
        }
        let [keys, values] = store.map(|numbers| Slice::of(&gpu, dtype, &numbers).expect("memory"));
        let layer = KvLayer { keys, values, blocks, kv_heads: heads.kv_heads, head_dim: dim };
        let wider: Vec<f32> = query.chunks(width).flat_map(|line| [&[f32::NAN; 8], line].concat()).collect();
        let wider = Slice::of(&gpu, dtype, &wider).expect("memory");
        let table = Slice::of_u32(&gpu, &table).expect("memory");
        let device_rows = brought(&gpu, &rows);
        let out = poisoned(&gpu, dtype, lines * width);
        let paged = KeyValues::Paged { layer: &layer, table: &table, max_blocks };
        let query = Matrix::new(&wider, width + 8).columns(8..width + 8);
        attend_prefill(&gpu, query, heads, paged, &device_rows, scale, &out).expect("launch");
        check(&out, &exact, &gpu, &rows, width, &format!("{dtype:?} {heads:?} {rows:?}"));
    }
}

#[test]
#[ignore = "needs a GPU"]
fn tokens_of_encoders_see_their_row_and_its_prefix() {
    let (gpu, mut rng) = (gpu(), rng(61));
    for (case, (dtype, heads, longest)) in cases(&mut rng).into_iter().enumerate() {
        let (dim, width, kv_width) = (heads.head_dim, heads.width(), heads.kv_width());
        let (rows, lines) = rows(&mut rng, longest, false);
        let all = width + 2 * kv_width;
        let mut fused = round(dtype, &uniform(&mut rng, lines * all));
        // What belongs to no row is not read.
        let owned = owned(&rows, lines);
        fused.chunks_mut(all).zip(owned).filter(|(_, owned)| !owned).for_each(|(line, _)| line.fill(f32::NAN));
        let prefixes: Vec<Option<[Vec<f32>; 2]>> = rows
            .iter()
            .map(|_| {
                let count = rng.random_range(1..80);
                let has = case % 3 > 0 && rng.random_bool(0.7);
                has.then(|| [0, 1].map(|_| round(dtype, &uniform(&mut rng, count * kv_width))))
            })
            .collect();
        let scale = 2.0 / (dim as f32).sqrt();
        let mut exact = Vec::new();
        for (row, prefix) in rows.iter().zip(&prefixes) {
            let own = fused[row.first_line * all..(row.first_line + row.tokens) * all].chunks(all);
            let pairs = |head: usize| {
                let at = head / heads.group() * dim;
                let before = prefix.iter().flat_map(|[k, v]| k.chunks(kv_width).zip(v.chunks(kv_width)));
                let own = own.clone().map(|line| (&line[width..], &line[width + kv_width..]));
                before.chain(own).map(|(key, value)| (&key[at..at + dim], &value[at..at + dim])).collect()
            };
            let pairs: Vec<Vec<(&[f32], &[f32])>> = (0..heads.heads).map(pairs).collect();
            for line in own.clone() {
                for (query, pairs) in line.chunks(dim).zip(&pairs) {
                    exact.extend(attention(query, pairs.iter().copied(), scale));
                }
            }
        }
        let device = Slice::of(&gpu, dtype, &fused).expect("memory");
        let matrix = Matrix::new(&device, all);
        let on_gpu = |x: &Vec<f32>| Slice::of(&gpu, dtype, x).expect("memory");
        let held: Vec<Option<[Slice; 2]>> =
            prefixes.iter().map(|prefix| prefix.as_ref().map(|both| both.each_ref().map(on_gpu))).collect();
        let held: Vec<Option<(&Slice, &Slice)>> =
            held.iter().map(|prefix| prefix.as_ref().map(|[keys, values]| (keys, values))).collect();
        let key_values = KeyValues::BothWays {
            keys: matrix.columns(width..width + kv_width),
            values: matrix.columns(width + kv_width..all),
            prefixes: if case % 3 > 0 { &held } else { &[] },
        };
        let device_rows = brought(&gpu, &rows);
        let out = poisoned(&gpu, dtype, lines * width);
        let query = matrix.columns(0..width);
        attend_prefill(&gpu, query, heads, key_values, &device_rows, scale, &out).expect("launch");
        check(&out, &exact, &gpu, &rows, width, &format!("{dtype:?} {heads:?} {rows:?}"));
    }
}
