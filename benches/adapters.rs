//! What adapters add to a step: kind × rank × how many different ones × rows, on two layers of SmolLM2-135M's shape.
//!
//! Through the engine, so that what is measured outlives how adapters are applied. `base` is the same step without any.

mod common;

use common::{Bench, cut, make, store};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const KINDS: [(&str, &str, &[&str]); 5] = [
    ("lora r8", "lora", &["--rank", "8", "--targets", "all-linear"]),
    ("lora r64", "lora", &["--rank", "64", "--targets", "all-linear"]),
    ("dora r8", "dora", &["--rank", "8", "--targets", "all-linear"]),
    ("ia3", "ia3", &["--targets", "all-linear"]),
    ("prefix", "prefix_tuning", &[]),
];
const MOST: usize = 8;
/// Steps that are measured at once.
const STEPS: usize = 16;

fn adapters(c: &mut Criterion) {
    let (shape, store) = (cut("smollm2-135m", 2, 512), store("adapters"));
    let kinds = KINDS.map(|(label, kind, flags)| (label, make(&shape, &store, kind, MOST, flags)));
    let bench = Bench::load(&shape, &store);
    let mut group = c.benchmark_group("adapters");
    group.sample_size(10);
    let mut salt = 0;
    let mut measure = |name: String, rows: &[Option<&str>]| {
        group.throughput(Throughput::Elements((rows.len() * STEPS) as u64));
        group.bench_function(BenchmarkId::new(name, rows.len()), |b| {
            b.iter_custom(|iterations| (0..iterations).map(|_| bench.decode(rows, STEPS + 1, &mut salt)).sum());
        });
    };
    for rows in [1, 8, 32] {
        measure("base".into(), &vec![None; rows]);
        for (label, names) in &kinds {
            for different in [1, MOST].into_iter().filter(|different| *different <= rows) {
                let of: Vec<Option<&str>> = (0..rows).map(|row| Some(names[row % different].as_str())).collect();
                measure(format!("{label} x {different}"), &of);
            }
        }
    }
    group.finish();
}

criterion_group!(benches, adapters);
criterion_main!(benches);
