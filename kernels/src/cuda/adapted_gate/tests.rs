use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cuda::adapters::tests::{Site, random_slots};
use crate::cuda::checks::{DTYPES, assert_same, assert_within, gpu, pick, poisoned, random, tolerance};
use crate::cuda::product::tests::exact;
use crate::cuda::{Dtype, shrink, tiles};

#[test]
#[ignore = "needs a GPU"]
fn gates_with_adapters_are_right() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(14);
    for _ in 0..80 {
        let (dtype, inputs) = (pick(&mut rng, &DTYPES), pick(&mut rng, &[8, 256, 520, 1544]));
        let (lines, outputs) =
            (pick(&mut rng, &[1, 9, 65, 130, 300]), pick(&mut rng, &[1, 7, 32, 100, 255, 256, 257, 576]));
        let (most_rank, slots) = (pick(&mut rng, &[3, 16, 64, 256]), rng.random_range(1..6));
        let sites = [0, 1].map(|_| Site::new(&gpu, &mut rng, inputs, outputs, most_rank, slots));
        let tables = sites.each_ref().map(|site| &site.table);
        let most_run = pick(&mut rng, &[3, 100, 300]);
        let line_slots = random_slots(&mut rng, lines, slots, most_run);
        let what = format!("{dtype:?} {lines} x {inputs} -> 2 x {outputs}, ranks to {most_rank}");

        let x = random(&gpu, &mut rng, dtype, lines * inputs, 0.1);
        let base = random(&gpu, &mut rng, dtype, lines * 2 * outputs, 4.0);
        let bias = rng.random_bool(0.5).then(|| random(&gpu, &mut rng, dtype, 2 * outputs, 2.0));
        let activation = pick(&mut rng, &[Activation::Relu, Activation::Silu]);
        let parts = if dtype == Dtype::F32 { 1 } else { rng.random_range(1..4) };
        let run = || {
            let base = Slice::of(&gpu, dtype, &base.slice.to_f32().expect("numbers")).expect("memory");
            // Some without lines after them.
            let slots_of_lines = [tiles(&line_slots), vec![0; 3 * 40]].concat();
            let slots_of_lines = Slice::of_u32(&gpu, &slots_of_lines).expect("memory");
            let shrunk = poisoned(&gpu, Dtype::F32, parts * 2 * lines * most_rank);
            let lines_of = LinesOf::Tiles(&slots_of_lines);
            let sites = Sites { tables: &tables, lines_of, lines, shrunk: &shrunk, parts, dtype };
            shrink(&gpu, &sites, &x.slice).expect("a launch");
            let y = poisoned(&gpu, dtype, lines * outputs);
            let (base, bias) = (&base, bias.as_ref().map(|bias| &bias.slice));
            expand_gated(&gpu, &sites, &GatedExpansion { base, bias, activation, y: &y }).expect("a launch");
            y.to_f32().expect("numbers")
        };
        let found = run();
        assert_same(&run(), &found, &what);

        // f16 ends at 65,504, also half-way.
        let fits = |number: f64| dtype != Dtype::F16 || number.abs() < 6e4;
        let (mut kept, mut expected) = (Vec::new(), Vec::new());
        for (line, &slot) in line_slots.iter().enumerate() {
            let x = &x.values[line * inputs..(line + 1) * inputs];
            let side = |side: usize| {
                let base = &base.values[(2 * line + side) * outputs..][..outputs];
                let bias = bias.as_ref().map(|bias| &bias.values[side * outputs..][..outputs]);
                sites[side].expanded(slot as usize, x, base, bias)
            };
            for (column, (gate, up)) in side(0).into_iter().zip(side(1)).enumerate() {
                let y = exact(gate, activation) * up;
                if fits(gate) && fits(up) && fits(y) {
                    kept.push(found[line * outputs + column]);
                    expected.push(y);
                }
            }
        }
        assert_within(&kept, &expected, tolerance(dtype), &what);
    }
}
