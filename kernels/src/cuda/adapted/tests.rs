use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cpu::Activation;
use crate::cuda::adapters::tests::{Site, random_slots};
use crate::cuda::checks::{assert_same, assert_within, gpu, pick, poisoned, random, tolerance, tolerance_of_sums};
use crate::cuda::product::tests::{exact, scratch};
use crate::cuda::{FEW_LINES, MOST_SITES, Norm, Store, Table, shrink};

const DTYPES: [Dtype; 2] = [Dtype::F16, Dtype::Bf16];

/// Sites with random adapters, side by side.
struct Case {
    dtype: Dtype,
    inputs: usize,
    sites: Vec<Site>,
    most_rank: usize,
    /// Of each line.
    slots: Vec<u32>,
}

impl Case {
    fn new(gpu: &Arc<Gpu>, rng: &mut StdRng, count: usize, outputs: &[usize]) -> Self {
        let dtype = pick(rng, &DTYPES);
        let inputs = pick(rng, &[8, 40, 256, 520, 576, 1544]);
        let (most_rank, slots) = (pick(rng, &[3, 16, 64, 200, 256]), rng.random_range(1..7));
        let mut site = |last: bool| {
            let outputs = pick(rng, outputs);
            let outputs = if last { outputs } else { outputs.next_multiple_of(TOGETHER) };
            Site::new(gpu, rng, inputs, outputs, most_rank, slots)
        };
        let sites: Vec<Site> = (1..=count).map(|i| site(i == count)).collect();
        let (lines, most_run) = (rng.random_range(1..=FEW_LINES), pick(rng, &[1, 3, 20, 64]));
        Self { dtype, inputs, sites, most_rank, slots: random_slots(rng, lines, slots, most_run) }
    }

    fn outputs(&self) -> usize {
        self.sites.iter().map(|site| site.table.outputs()).sum()
    }

    fn what(&self) -> String {
        let outputs: Vec<usize> = self.sites.iter().map(|site| site.table.outputs()).collect();
        let Self { dtype, inputs, most_rank, .. } = self;
        format!("{dtype:?} {} x {inputs} -> {outputs:?}, ranks to {most_rank}", self.slots.len())
    }

    /// What `f` does with the sites and some of the lines.
    fn with<T>(&self, gpu: &Arc<Gpu>, lines: std::ops::Range<usize>, f: impl FnOnce(&Sites<'_>) -> T) -> T {
        let tables: Vec<&Table> = self.sites.iter().map(|site| &site.table).collect();
        let slots = Slice::of_u32(gpu, &self.slots[lines.clone()]).expect("memory");
        let shrunk = poisoned(gpu, Dtype::F32, tables.len() * lines.len() * self.most_rank);
        let (lines_of, lines) = (LinesOf::Slots(&slots), lines.len());
        f(&Sites { tables: &tables, lines_of, lines, shrunk: &shrunk, parts: 1, dtype: self.dtype })
    }

    /// All sites' results for a line, from f64 products of the base.
    fn exact(&self, line: usize, x: &[f64], weight: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
        let mut first = 0;
        let each = self.sites.iter().flat_map(|site| {
            let columns = first..first + site.table.outputs();
            first = columns.end;
            let row = |column: usize| &weight[column * self.inputs..(column + 1) * self.inputs];
            let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            let base: Vec<f64> = columns.clone().map(|column| dot(row(column))).collect();
            site.expanded(self.slots[line] as usize, x, &base, bias.map(|bias| &bias[columns]))
        });
        each.collect()
    }
}

#[test]
#[ignore = "needs a GPU"]
fn adapted_products_are_right() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(11);
    for _ in 0..120 {
        let count = rng.random_range(1..=MOST_SITES);
        let case = Case::new(&gpu, &mut rng, count, &[1, 7, 32, 63, 64, 65, 200, 576, 1000]);
        let (lines, inputs, outputs, dtype) = (case.slots.len(), case.inputs, case.outputs(), case.dtype);
        let x = random(&gpu, &mut rng, dtype, lines * inputs, 1.0);
        let weight = random(&gpu, &mut rng, dtype, outputs * inputs, 1.0);
        let bias = rng.random_bool(0.5).then(|| random(&gpu, &mut rng, dtype, outputs, 4.0));
        let store = pick(&mut rng, &[Store::Write, Store::Add]);
        let own = if store == Store::Add { Dtype::F32 } else { pick(&mut rng, &[dtype, Dtype::F32]) };
        let before = random(&gpu, &mut rng, own, lines * outputs, 4.0);
        let scratch = scratch(&gpu, lines, inputs, outputs);
        let shrunk_before = rng.random_bool(0.5);
        let run = || {
            let y = match store {
                Store::Add => Slice::of(&gpu, own, &before.slice.to_f32().expect("numbers")).expect("memory"),
                Store::Write => poisoned(&gpu, own, lines * outputs),
            };
            let (weight, bias) = (&weight.slice, bias.as_ref().map(|bias| &bias.slice));
            let (x, y_slice, pitch, ahead) = (&x.slice, &y, outputs, Some(weight));
            let call = Product { x, weight, bias, y: y_slice, pitch, store, lines, inputs, outputs, ahead };
            let launch = |sites: &Sites<'_>| {
                if shrunk_before {
                    shrink(&gpu, sites, x)?;
                }
                adapted_product(&gpu, &call, sites, (!shrunk_before).then_some(x), &scratch)
            };
            case.with(&gpu, 0..lines, launch).expect("a launch");
            y.to_f32().expect("numbers")
        };
        let found = run();
        assert_same(&run(), &found, &case.what());
        let mut expected = Vec::new();
        for (line, x) in x.values.chunks(inputs).enumerate() {
            expected.extend(case.exact(line, x, &weight.values, bias.as_ref().map(|bias| &bias.values[..])));
        }
        if store == Store::Add {
            expected.iter_mut().zip(&before.values).for_each(|(y, before)| *y += before);
        }
        assert_within(&found, &expected, tolerance_of_sums(dtype, own), &case.what());
    }
}

#[test]
#[ignore = "needs a GPU"]
fn adapted_gated_products_are_right() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(12);
    for _ in 0..80 {
        let half = pick(&mut rng, &[4, 8, 32, 36, 100, 332, 500, 1536]);
        let case = Case::new(&gpu, &mut rng, 2, &[half]);
        let (lines, inputs, dtype) = (case.slots.len(), case.inputs, case.dtype);
        let x = random(&gpu, &mut rng, dtype, lines * inputs, 1.0);
        let weight = random(&gpu, &mut rng, dtype, 2 * half * inputs, 6.0 / (inputs as f32).sqrt());
        let bias = rng.random_bool(0.5).then(|| random(&gpu, &mut rng, dtype, 2 * half, 2.0));
        let activation = pick(&mut rng, &[Activation::Relu, Activation::Silu]);
        let scratch = scratch(&gpu, lines, inputs, 2 * half);
        let shrunk_before = rng.random_bool(0.5);
        let run = || {
            let y = poisoned(&gpu, dtype, lines * half);
            let (x, weight, bias, ahead) = (&x.slice, &weight.slice, bias.as_ref().map(|bias| &bias.slice), None);
            let (y_slice, outputs) = (&y, half);
            let call = GatedProduct { x, weight, bias, activation, y: y_slice, lines, inputs, outputs, ahead };
            let launch = |sites: &Sites<'_>| {
                if shrunk_before {
                    shrink(&gpu, sites, x)?;
                }
                adapted_gated_product(&gpu, &call, sites, shrunk_before, &scratch)
            };
            case.with(&gpu, 0..lines, launch).expect("a launch");
            y.to_f32().expect("numbers")
        };
        let found = run();
        assert_same(&run(), &found, &case.what());
        let mut expected = Vec::new();
        for (line, x) in x.values.chunks(inputs).enumerate() {
            let both = case.exact(line, x, &weight.values, bias.as_ref().map(|bias| &bias.values[..]));
            expected.extend((0..half).map(|column| exact(both[column], activation) * both[half + column]));
        }
        // f16 ends at 65,504.
        let fits = |number: &f64| dtype != Dtype::F16 || number.abs() < 6e4;
        let kept = |i: usize| fits(&expected[i]);
        let found: Vec<f32> = (0..found.len()).filter(|&i| kept(i)).map(|i| found[i]).collect();
        let expected: Vec<f64> = (0..expected.len()).filter(|&i| kept(i)).map(|i| expected[i]).collect();
        assert_within(&found, &expected, tolerance(dtype), &case.what());
    }
}

#[test]
#[ignore = "needs a GPU"]
fn an_adapted_line_is_the_same_alone_and_among_others_and_without_an_adapter_the_bases() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(13);
    for _ in 0..30 {
        let mut case = Case::new(&gpu, &mut rng, 3, &[64, 576, 1000]);
        let last = case.sites.iter().map(|site| site.table.slots()).min().unwrap_or(1);
        case.slots = random_slots(&mut rng, FEW_LINES, last, 5);
        let (inputs, outputs, dtype) = (case.inputs, case.outputs(), case.dtype);
        let x = random(&gpu, &mut rng, dtype, FEW_LINES * inputs, 1.0).slice;
        let weight = random(&gpu, &mut rng, dtype, outputs * inputs, 1.0).slice;
        let scratch = scratch(&gpu, FEW_LINES, inputs, outputs);
        let lines_from = |first: usize, lines: usize, adapted: bool| {
            let y = poisoned(&gpu, Dtype::F32, lines * outputs);
            let x = &x.part(first * inputs..(first + lines) * inputs);
            let (weight, y_slice, store, pitch, ahead) = (&weight, &y, Store::Write, outputs, None);
            let call = Product { x, weight, bias: None, y: y_slice, pitch, store, lines, inputs, outputs, ahead };
            let launched = match adapted {
                true => case.with(&gpu, first..first + lines, |s| adapted_product(&gpu, &call, s, Some(x), &scratch)),
                false => crate::cuda::product(&gpu, &call, &scratch),
            };
            launched.expect("a launch");
            y.to_f32().expect("numbers")
        };
        let (all, base) = (lines_from(0, FEW_LINES, true), lines_from(0, FEW_LINES, false));
        for lines in [1, 2, 8, 9, 17, 31, 33, 63] {
            let first = rng.random_range(0..=FEW_LINES - lines);
            let range = first * outputs..(first + lines) * outputs;
            assert_same(&lines_from(first, lines, true), &all[range], &format!("{} from {first}", case.what()));
        }
        for (line, _) in case.slots.iter().enumerate().filter(|&(_, &slot)| slot == 0) {
            let range = line * outputs..(line + 1) * outputs;
            assert_same(&all[range.clone()], &base[range], &case.what());
        }
    }
}

/// What adapters of rank 16 add to a product's launch: one for all 32 lines, or one for each.
#[test]
#[ignore = "needs a GPU; prints timings"]
fn adapted_bandwidth() {
    const LINES: usize = 32;
    const RANK: usize = 16;
    // Far more than any L2 holds.
    const BYTES: usize = 400 << 20;
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(14);
    let dtype = Dtype::Bf16;
    let some: Vec<u8> = (0..1 << 20).map(|_| rng.random_range(0..64)).collect();
    let weights = Slice::new(&gpu, dtype, BYTES / 2).expect("memory");
    weights.write(&some.repeat(BYTES >> 20)).expect("a copy");
    println!(
        "{:>6} {:>20} {:>8} | shrunk before: {:>8} {:>8} {:>8} | {:>8} {:>8} {:>8} {:>12}",
        "in", "out", "plain us", "none us", "one us", "32 us", "none us", "one us", "32 us", "their bytes us"
    );
    for (inputs, outputs) in [
        (4096, &[4096, 1024, 1024][..]),
        (4096, &[4096]),
        (4096, &[14336, 14336]),
        (14336, &[4096]),
        (2048, &[2048, 512, 512]),
        (2048, &[2048]),
        (2048, &[8192, 8192]),
        (8192, &[2048]),
        (576, &[576, 192, 192]),
        (576, &[576]),
        (576, &[1536, 1536]),
        (1536, &[576]),
    ] {
        let all: usize = outputs.iter().sum();
        let own = LINES * RANK * (inputs * outputs.len() + all);
        // Sets of adapters in turn, at least two of them.
        let sets = (BYTES / 2 / own).clamp(2, 24);
        let part = |at: &mut usize, len: usize| {
            *at = if *at + len > BYTES / 2 { 0 } else { *at };
            *at += len.next_multiple_of(64);
            weights.part(*at - len.next_multiple_of(64)..*at - len.next_multiple_of(64) + len)
        };
        let mut at = 0;
        let tables: Vec<Vec<Table>> = (0..sets)
            .map(|_| {
                let table = |&outputs: &usize| {
                    let mut table = Table::new(&gpu, inputs, outputs, RANK, LINES + 1).expect("memory");
                    for slot in 1..=LINES {
                        let (a, b) = (part(&mut at, RANK * inputs), part(&mut at, RANK * outputs));
                        let low_rank = Some(crate::cuda::LowRank { a, b, rank: RANK, scale: 0.5 });
                        let patch = crate::cuda::SitePatch { low_rank, ..Default::default() };
                        table.set(slot, patch).expect("a copy");
                    }
                    table
                };
                outputs.iter().map(table).collect()
            })
            .collect();
        let x = random(&gpu, &mut rng, dtype, LINES * inputs, 1.0).slice;
        let (y, shrunk) =
            (poisoned(&gpu, dtype, LINES * all), poisoned(&gpu, Dtype::F32, outputs.len() * LINES * RANK));
        let scratch = scratch(&gpu, LINES, inputs, all);
        let copies = BYTES / 2 / (inputs * all);
        let gated = outputs.len() == 2;
        let time = |slots: Option<Vec<u32>>, before: bool| {
            let slots = slots.map(|slots| Slice::of_u32(&gpu, &slots).expect("memory"));
            crate::cuda::checks::seconds(&gpu, 48, |i| {
                let weight = &weights.part(i % copies * inputs * all..(i % copies + 1) * inputs * all);
                let tables: Vec<&Table> = tables[i % sets].iter().collect();
                let sites = slots.as_ref().map(|slots| {
                    let (tables, lines_of) = (&tables[..], LinesOf::Slots(slots));
                    Sites { tables, lines_of, lines: LINES, shrunk: &shrunk, parts: 1, dtype }
                });
                let (x, bias, lines, ahead) = (&x, None, LINES, None);
                if gated {
                    let (activation, outputs) = (Activation::Silu, outputs[0]);
                    let y = &y;
                    let call = GatedProduct { x, weight, bias, activation, y, lines, inputs, outputs, ahead };
                    return match &sites {
                        None => crate::cuda::gated_product(&gpu, &call, &scratch),
                        Some(sites) => adapted_gated_product(&gpu, &call, sites, before, &scratch),
                    };
                }
                let (y, pitch, store, outputs) = (&y, all, Store::Write, all);
                let call = Product { x, weight, bias, y, pitch, store, lines, inputs, outputs, ahead };
                match &sites {
                    None => crate::cuda::product(&gpu, &call, &scratch),
                    Some(sites) => adapted_product(&gpu, &call, sites, (!before).then_some(x), &scratch),
                }
            }) * 1e6
        };
        let (one, each) = (vec![1; LINES], (1..=LINES as u32).collect::<Vec<u32>>());
        print!("{inputs:>6} {:>20}", format!("{outputs:?}"));
        print!(" {:>8.2}", time(None, false));
        for before in [true, false] {
            for slots in [vec![0; LINES], one.clone(), each.clone()] {
                print!(" {:>8.2}", time(Some(slots), before));
            }
        }
        // What is read after a norm is shrunk with it.
        if outputs.len() > 1 {
            let (lines, weight) =
                (random(&gpu, &mut rng, Dtype::F32, LINES * inputs, 1.0).slice, weights.part(0..inputs));
            let norm = Norm::Rms { weight: &weight, eps: 1e-5 };
            let time = |slots: Option<Vec<u32>>| {
                let slots = slots.map(|slots| Slice::of_u32(&gpu, &slots).expect("memory"));
                crate::cuda::checks::seconds(&gpu, 48, |i| {
                    let Some(slots) = &slots else {
                        let whole = |slice| crate::cuda::Matrix::new(slice, inputs);
                        return crate::cuda::norm(&gpu, whole(&lines), norm, whole(&x));
                    };
                    let tables: Vec<&Table> = tables[i % sets].iter().collect();
                    let (tables, lines_of) = (&tables[..], LinesOf::Slots(slots));
                    let sites = Sites { tables, lines_of, lines: LINES, shrunk: &shrunk, parts: 1, dtype };
                    crate::cuda::norm_shrink(&gpu, &lines, norm, &x, &sites)
                }) * 1e6
            };
            print!(" | norm {:.2}, {:.2}, {:.2}", time(None), time(Some(one)), time(Some(each)));
        }
        println!(" {:>12.2}", (own * 2) as f64 / 3.0e12 * 1e6);
    }
}
