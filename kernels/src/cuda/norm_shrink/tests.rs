use super::*;
use crate::cuda::adapters::tests::{Site, random_slots};
use crate::cuda::checks::{Rng, assert_close, assert_within, gpu, pick, poisoned, random, rng, tolerance_of_sums};
use crate::cuda::{FEW_LINES, LinesOf, Table};

#[test]
#[ignore = "needs a GPU"]
fn norms_and_what_adapters_shrink_of_them_are_right() {
    let (gpu, mut rng) = (gpu(), rng(15));
    for _ in 0..60 {
        let dtype = pick(&mut rng, &[Dtype::F16, Dtype::Bf16]);
        let n = pick(&mut rng, &[8, 40, 256, 576, 2048, 2056, 4096, 8192]);
        let (most_rank, slots) = (pick(&mut rng, &[3, 16, 64, 256]), rng.random_range(1..6));
        let count = rng.random_range(1..=MOST_SITES);
        let mut site = |_| {
            let outputs = pick(&mut rng, &[4, 36, 256]);
            Site::new(&gpu, &mut rng, n, outputs, most_rank, slots)
        };
        let sites: Vec<Site> = (0..count).map(&mut site).collect();
        let lines = rng.random_range(1..=FEW_LINES);
        let line_slots = random_slots(&mut rng, lines, slots, 5);
        let what = format!("{dtype:?} {lines} x {n}, {count} sites, ranks to {most_rank}");

        let x = random(&gpu, &mut rng, Dtype::F32, lines * n, 3.0);
        let weight = random(&gpu, &mut rng, dtype, n, 1.0);
        let bias = rng.random_bool(0.5).then(|| random(&gpu, &mut rng, dtype, n, 1.0));
        let eps = 1e-5;
        let norm = match &bias {
            None => Norm::Rms { weight: &weight.slice, eps },
            Some(bias) => Norm::Layer { weight: &weight.slice, bias: &bias.slice, eps },
        };
        let out = poisoned(&gpu, dtype, lines * n);
        let shrunk = poisoned(&gpu, Dtype::F32, count * lines * most_rank);
        let tables: Vec<&Table> = sites.iter().map(|site| &site.table).collect();
        let slots = Slice::of_u32(&gpu, &line_slots).expect("memory");
        let call = Sites { tables: &tables, lines_of: LinesOf::Slots(&slots), lines, shrunk: &shrunk, parts: 1, dtype };
        norm_shrink(&gpu, &x.slice, norm, &out, &call).expect("a launch");

        let exact = x.values.chunks(n).flat_map(|x| {
            let count = n as f64;
            let mean = if bias.is_some() { x.iter().sum::<f64>() / count } else { 0.0 };
            let square = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            let scale = 1.0 / (square + f64::from(eps)).sqrt();
            let bias = |i: usize| bias.as_ref().map_or(0.0, |bias| bias.values[i]);
            let line = x.iter().enumerate().map(|(i, x)| (x - mean) * scale * weight.values[i] + bias(i));
            line.collect::<Vec<_>>()
        });
        assert_close(&out, &exact.collect::<Vec<_>>(), &what);

        // Of the lines as they were rounded.
        let normed: Vec<f64> = out.to_f32().expect("numbers").into_iter().map(f64::from).collect();
        let found = shrunk.to_f32().expect("numbers");
        let mut rows = found.chunks_exact(most_rank);
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for site in &sites {
            for (x, &slot) in normed.chunks(n).zip(&line_slots) {
                let row = rows.next().expect("a row");
                let shrunk = site.shrunk(slot as usize, x);
                assert!(row[shrunk.len()..].iter().all(|number| number.is_nan()), "{what}: beside what is shrunk");
                found.extend_from_slice(&row[..shrunk.len()]);
                expected.extend(shrunk);
            }
        }
        if !expected.is_empty() {
            assert_within(&found, &expected, tolerance_of_sums(dtype, Dtype::F32), &what);
        }
    }
}
