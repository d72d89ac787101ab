use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cuda::checks::{
    DTYPES, Numbers, assert_same, assert_within, gpu, pick, poisoned, random, seconds, tolerance, tolerance_of_sums,
};
use crate::cuda::{LowRank, SitePatch};

/// The numbers of a patch.
#[derive(Default)]
struct Plain {
    low_rank: Option<(Numbers, Numbers, usize, f32)>,
    scale: Option<Numbers>,
    rescale: Option<Numbers>,
    rescale_in: Option<Numbers>,
    bias: Option<Numbers>,
}

/// A site with random adapters.
pub(in super::super) struct Site {
    pub table: Table,
    patches: Vec<Plain>,
}

impl Site {
    pub fn new(
        gpu: &Arc<Gpu>,
        rng: &mut StdRng,
        inputs: usize,
        outputs: usize,
        most_rank: usize,
        slots: usize,
    ) -> Self {
        let mut table = Table::new(gpu, inputs, outputs, most_rank, slots).expect("memory");
        let mut patches = vec![Plain::default()];
        for slot in 1..slots {
            let patch = Plain::new(gpu, rng, inputs, outputs, most_rank);
            table.set(slot, patch.on_gpu()).expect("a copy");
            patches.push(patch);
        }
        Self { table, patches }
    }

    /// `alpha · A·x` of a line.
    pub fn shrunk(&self, slot: usize, x: &[f64]) -> Vec<f64> {
        let Some((a, _, _, alpha)) = &self.patches[slot].low_rank else { return Vec::new() };
        let row = |a: &[f64]| f64::from(*alpha) * a.iter().zip(x).map(|(a, x)| a * x).sum::<f64>();
        a.values.chunks_exact(x.len()).map(row).collect()
    }

    /// What becomes of a base's product, a line.
    pub fn expanded(&self, slot: usize, x: &[f64], base: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
        let patch = &self.patches[slot];
        let shrunk = self.shrunk(slot, x);
        let at = |row: &Option<Numbers>, column: usize| row.as_ref().map(|row| row.values[column]);
        let column = |(column, base): (usize, &f64)| {
            let mut y = *base;
            if let Some((_, b, rank, _)) = &patch.low_rank {
                y += b.values[column * rank..].iter().zip(&shrunk).map(|(b, h)| b * h).sum::<f64>();
            }
            y *= at(&patch.scale, column).unwrap_or(1.0);
            y += at(&patch.bias, column).or(bias.map(|bias| bias[column])).unwrap_or(0.0);
            y * at(&patch.rescale, column).unwrap_or(1.0)
        };
        base.iter().enumerate().map(column).collect()
    }
}

impl Plain {
    fn new(gpu: &Arc<Gpu>, rng: &mut StdRng, inputs: usize, outputs: usize, most_rank: usize) -> Self {
        let (dtype, row_dtype) = (pick(rng, &DTYPES), pick(rng, &DTYPES));
        let rank = pick(rng, &[1, 2, 3, 8, 12, 16, 24, 40, 64, 200, 256]).min(most_rank);
        let low_rank = rng.random_bool(0.8).then(|| {
            let a = random(gpu, rng, dtype, rank * inputs, 1.0);
            let b = random(gpu, rng, dtype, outputs * rank, 1.0);
            (a, b, rank, rng.random_range(0.1..2.0))
        });
        let mut row = |len: usize| rng.random_bool(0.4).then(|| random(gpu, rng, row_dtype, len, 2.0));
        Self { low_rank, scale: row(outputs), rescale: row(outputs), rescale_in: row(inputs), bias: row(outputs) }
    }

    fn on_gpu(&self) -> SitePatch {
        let row = |row: &Option<Numbers>| row.as_ref().map(|row| row.slice.clone());
        let low_rank = self.low_rank.as_ref().map(|(a, b, rank, scale)| LowRank {
            a: a.slice.clone(),
            b: b.slice.clone(),
            rank: *rank,
            scale: *scale,
        });
        SitePatch {
            low_rank,
            scale: row(&self.scale),
            rescale: row(&self.rescale),
            rescale_in: row(&self.rescale_in),
            bias: row(&self.bias),
        }
    }
}

/// Runs of lines of random slots.
pub(in super::super) fn random_slots(rng: &mut StdRng, lines: usize, slots: usize, most_run: usize) -> Vec<u32> {
    let mut all = Vec::new();
    while all.len() < lines {
        let (slot, run) = (rng.random_range(0..slots), rng.random_range(1..=most_run));
        all.extend(std::iter::repeat_n(slot as u32, run.min(lines - all.len())));
    }
    all
}

#[test]
fn tiles_are_runs_of_lines() {
    let slots: Vec<u32> = [vec![3; 2], vec![0; 1], vec![3; 80]].concat();
    assert_eq!(tiles(&slots), [3, 0, 2, 0, 2, 1, 3, 3, 32, 3, 35, 32, 3, 67, 16]);
    assert_eq!(tiles(&[]), []);
}

#[test]
#[ignore = "needs a GPU"]
fn adapters_of_few_lines_are_right() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(6);
    for _ in 0..80 {
        let lines = rng.random_range(1..=MOST_SLOT_LINES);
        let most_run = pick(&mut rng, &[1, 3, 20, 64]);
        check(&gpu, &mut rng, lines, most_run, false);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn adapters_of_many_lines_are_right() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..60 {
        let lines = pick(&mut rng, &[1, 9, 64, 65, 130, 200, 300]);
        let most_run = pick(&mut rng, &[3, 100, 300]);
        check(&gpu, &mut rng, lines, most_run, true);
    }
}

/// Random sites with random adapters for random lines.
fn check(gpu: &Arc<Gpu>, rng: &mut StdRng, lines: usize, most_run: usize, in_tiles: bool) {
    let dtype = pick(rng, &DTYPES);
    let inputs = pick(rng, &[8, 40, 256, 520, 576, 1544]);
    let (most_rank, slots) = (pick(rng, &[3, 16, 64, 200, 256]), rng.random_range(1..6));
    let sites: Vec<Site> = (0..rng.random_range(1..=MOST_SITES))
        .map(|_| {
            let outputs = pick(rng, &[1, 7, 32, 255, 256, 257, 576]);
            Site::new(gpu, rng, inputs, outputs, most_rank, slots)
        })
        .collect();
    let outputs: Vec<usize> = sites.iter().map(|site| site.table.outputs()).collect();
    let pitch: usize = outputs.iter().sum();
    let what = format!("{dtype:?} {lines} x {inputs} -> {outputs:?}, ranks to {most_rank}, tiles {in_tiles}");

    let line_slots = random_slots(rng, lines, slots, most_run);
    let slots_of_lines = match in_tiles {
        // Some without lines after them.
        true => [tiles(&line_slots), vec![0; 3 * rng.random_range(0..100)]].concat(),
        false => line_slots.clone(),
    };
    let slots_of_lines = Slice::of_u32(gpu, &slots_of_lines).expect("memory");
    let x = random(gpu, rng, dtype, lines * inputs, 1.0);
    let parts = if in_tiles && dtype != Dtype::F32 { rng.random_range(1..5) } else { 1 };
    let each = sites.len() * lines * most_rank;
    let shrunk = poisoned(gpu, Dtype::F32, parts * each);
    let tables: Vec<&Table> = sites.iter().map(|site| &site.table).collect();
    let lines_of = if in_tiles { LinesOf::Tiles(&slots_of_lines) } else { LinesOf::Slots(&slots_of_lines) };
    let call = Sites { tables: &tables, lines_of, lines, shrunk: &shrunk, parts, dtype };
    shrink(gpu, &call, &x.slice).expect("a launch");

    // What is not written in other parts than the first is not looked at.
    let all = shrunk.to_f32().expect("numbers");
    let sum = |i: usize| all[i] + all[i..].iter().step_by(each).skip(1).filter(|x| !x.is_nan()).sum::<f32>();
    let found: Vec<f32> = (0..each).map(sum).collect();
    let mut rows = found.chunks_exact(most_rank);
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for site in &sites {
        for (line, &slot) in line_slots.iter().enumerate() {
            let row = rows.next().expect("a row");
            let shrunk = site.shrunk(slot as usize, &x.values[line * inputs..(line + 1) * inputs]);
            assert!(row[shrunk.len()..].iter().all(|number| number.is_nan()), "{what}: beside what is shrunk");
            found.extend_from_slice(&row[..shrunk.len()]);
            expected.extend(shrunk);
        }
    }
    if !expected.is_empty() {
        let tolerance = tolerance_of_sums(dtype, Dtype::F32);
        assert_within(&found, &expected, tolerance, &format!("{what}: shrunk"));
    }

    let store = pick(rng, &[Store::Write, Store::Add]);
    let own = if store == Store::Add { Dtype::F32 } else { pick(rng, &[dtype, Dtype::F32]) };
    let base = random(gpu, rng, own, lines * pitch, 4.0);
    let bias = rng.random_bool(0.5).then(|| random(gpu, rng, dtype, pitch, 4.0));
    let before = random(gpu, rng, own, lines * pitch, 4.0);
    let y = match store {
        Store::Add => before.slice.clone(),
        Store::Write if rng.random_bool(0.5) => base.slice.clone(),
        Store::Write => poisoned(gpu, own, lines * pitch),
    };
    let expansion = Expansion { base: &base.slice, bias: bias.as_ref().map(|bias| &bias.slice), y: &y, store };
    expand(gpu, &call, &expansion).expect("a launch");
    let mut expected = Vec::new();
    for (line, &slot) in line_slots.iter().enumerate() {
        let mut first = 0;
        for (site, &outputs) in sites.iter().zip(&outputs) {
            let base = &base.values[line * pitch + first..][..outputs];
            let bias = bias.as_ref().map(|bias| &bias.values[first..first + outputs]);
            let x = &x.values[line * inputs..(line + 1) * inputs];
            expected.extend(site.expanded(slot as usize, x, base, bias));
            first += outputs;
        }
    }
    if store == Store::Add {
        expected.iter_mut().zip(&before.values).for_each(|(y, before)| *y += before);
    }
    assert_within(&y.to_f32().expect("numbers"), &expected, tolerance_of_sums(dtype, own), &what);
}

#[test]
#[ignore = "needs a GPU"]
fn inputs_are_rescaled() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(8);
    for dtype in DTYPES.repeat(4) {
        let (lines, inputs) = (rng.random_range(1..100), pick(&mut rng, &[8, 264, 576]));
        let site = Site::new(&gpu, &mut rng, inputs, 8, 8, 5);
        let line_slots = random_slots(&mut rng, lines, 5, 4);
        let slots = Slice::of_u32(&gpu, &line_slots).expect("memory");
        let x = random(&gpu, &mut rng, dtype, lines * inputs, 1.0);
        let scaled = poisoned(&gpu, dtype, lines * inputs);
        rescale_inputs(&gpu, &site.table, &slots, &x.slice, &scaled).expect("a launch");
        let rescaled = |(i, x): (usize, &f64)| {
            let rescale = &site.patches[line_slots[i / inputs] as usize].rescale_in;
            rescale.as_ref().map_or(*x, |row| row.values[i % inputs] * x)
        };
        let expected: Vec<f64> = x.values.iter().enumerate().map(rescaled).collect();
        assert_within(
            &scaled.to_f32().expect("numbers"),
            &expected,
            tolerance(dtype),
            &format!("{dtype:?} {lines} x {inputs}"),
        );
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_line_is_the_same_alone_and_among_others() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(9);
    for (case, dtype) in DTYPES.repeat(4).into_iter().enumerate() {
        let in_tiles = case >= DTYPES.len() * 2;
        let (inputs, outputs, most_rank) = (pick(&mut rng, &[576, 2048]), pick(&mut rng, &[257, 576]), 64);
        let site = Site::new(&gpu, &mut rng, inputs, outputs, most_rank, 6);
        let x = random(&gpu, &mut rng, dtype, MOST_SLOT_LINES * inputs, 1.0).slice;
        let base = random(&gpu, &mut rng, Dtype::F32, MOST_SLOT_LINES * outputs, 4.0).slice;
        let line_slots = random_slots(&mut rng, MOST_SLOT_LINES, 6, 20);
        let lines_from = |first: usize, lines: usize| {
            let slots = &line_slots[first..first + lines];
            let slots = if in_tiles { &tiles(slots)[..] } else { slots };
            let slots = Slice::of_u32(&gpu, slots).expect("memory");
            let shrunk = poisoned(&gpu, Dtype::F32, lines * most_rank);
            let y = poisoned(&gpu, Dtype::F32, lines * outputs);
            let lines_of = if in_tiles { LinesOf::Tiles(&slots) } else { LinesOf::Slots(&slots) };
            let sites = Sites { tables: &[&site.table], lines_of, lines, shrunk: &shrunk, parts: 1, dtype };
            shrink(&gpu, &sites, &x.part(first * inputs..(first + lines) * inputs)).expect("a launch");
            let base = &base.part(first * outputs..(first + lines) * outputs);
            expand(&gpu, &sites, &Expansion { base, bias: None, y: &y, store: Store::Write }).expect("a launch");
            y.to_f32().expect("numbers")
        };
        let all = lines_from(0, MOST_SLOT_LINES);
        for lines in [1, 1, 1, 2, 7, 8, 31, 33] {
            let first = rng.random_range(0..=MOST_SLOT_LINES - lines);
            let what = format!("{dtype:?}, lines {first}.. of {lines}, tiles {in_tiles}");
            assert_same(&lines_from(first, lines), &all[first * outputs..(first + lines) * outputs], &what);
        }
    }
}

#[test]
#[ignore = "needs a GPU; prints timings"]
fn adapter_bandwidth() {
    const LINES: usize = 32;
    const RANK: usize = 16;
    /// Tables in turn, so that matrices are not in L2.
    const TABLES: usize = 48;
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(10);
    let slots: Vec<u32> = (1..=LINES as u32).collect();
    let slots = Slice::of_u32(&gpu, &slots).expect("memory");
    println!("{:>6} {:>6} {:>8} {:>9} {:>9}", "in", "out", "", "us", "GB/s");
    for (inputs, outputs) in [(4096, 4096), (2048, 2048)] {
        // All of the same few numbers, each in memory of its own.
        let (some_a, some_b): (Vec<u8>, Vec<u8>) = (bytes(&mut rng, RANK * inputs), bytes(&mut rng, RANK * outputs));
        let tables: Vec<Table> = (0..TABLES)
            .map(|_| {
                let mut table = Table::new(&gpu, inputs, outputs, RANK, LINES + 1).expect("memory");
                for slot in 1..=LINES {
                    let a = Slice::new(&gpu, Dtype::Bf16, RANK * inputs).expect("memory");
                    let b = Slice::new(&gpu, Dtype::Bf16, RANK * outputs).expect("memory");
                    a.write(&some_a).expect("a copy");
                    b.write(&some_b).expect("a copy");
                    let low_rank = Some(LowRank { a, b, rank: RANK, scale: 2.0 });
                    table.set(slot, SitePatch { low_rank, ..SitePatch::default() }).expect("a copy");
                }
                table
            })
            .collect();
        let x = random(&gpu, &mut rng, Dtype::Bf16, LINES * inputs, 1.0).slice;
        let base = random(&gpu, &mut rng, Dtype::Bf16, LINES * outputs, 1.0).slice;
        let y = poisoned(&gpu, Dtype::Bf16, LINES * outputs);
        let shrunk = random(&gpu, &mut rng, Dtype::F32, LINES * RANK, 1.0).slice;
        let expansion = Expansion { base: &base, bias: None, y: &y, store: Store::Write };
        let report = |what: &str, bytes: usize, seconds: f64| {
            let rate = bytes as f64 / seconds / 1e9;
            println!("{inputs:>6} {outputs:>6} {what:>8} {:>9.2} {rate:>9.0}", seconds * 1e6);
        };
        let with = |call: &dyn Fn(&Sites<'_>) -> Result<(), GpuError>| {
            seconds(&gpu, 96, |i| {
                let tables = [&tables[i % TABLES]];
                let lines_of = LinesOf::Slots(&slots);
                call(&Sites { tables: &tables, lines_of, lines: LINES, shrunk: &shrunk, parts: 1, dtype: Dtype::Bf16 })
            })
        };
        let (a, b) = (LINES * RANK * inputs * 2, LINES * RANK * outputs * 2);
        report("shrink", a, with(&|sites| shrink(&gpu, sites, &x)));
        report("expand", b, with(&|sites| expand(&gpu, sites, &expansion)));
        report(
            "both",
            a + b,
            with(&|sites| {
                shrink(&gpu, sites, &x)?;
                expand(&gpu, sites, &expansion)
            }),
        );
    }
}

/// Random bf16 numbers.
fn bytes(rng: &mut StdRng, count: usize) -> Vec<u8> {
    (0..count).flat_map(|_| half::bf16::from_f32(rng.random_range(-1.0..1.0)).to_le_bytes()).collect()
}
