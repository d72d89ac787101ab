//! A token for each row of a batch, on the shape of SmolLM2-135M: the base alone, and with eight adapters.

mod common;

use common::{Bench, make, shape, store};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Steps that are measured at once.
const STEPS: usize = 8;

fn decode(c: &mut Criterion) {
    let (shape, store) = (shape("smollm2-135m"), store("decode"));
    let adapters = make(&shape, &store, "lora", 8, &["--rank", "16", "--targets", "all-linear"]);
    let bench = Bench::load(&shape, &store);
    let mut group = c.benchmark_group("decode");
    group.sample_size(10);
    let mut salt = 0;
    for rows in [1, 8, 32] {
        let base = vec![None; rows];
        let distinct: Vec<Option<&str>> = adapters.iter().cycle().take(rows).map(|name| Some(name.as_str())).collect();
        for (name, of) in [("base", &base), ("8 adapters", &distinct)] {
            group.throughput(Throughput::Elements((rows * STEPS) as u64));
            group.bench_function(BenchmarkId::new(name, rows), |b| {
                b.iter_custom(|iterations| (0..iterations).map(|_| bench.decode(of, STEPS + 1, &mut salt)).sum());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
