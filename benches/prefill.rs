//! A prompt to its first token, on the shape of SmolLM2-135M.

mod common;

use common::{Bench, make, shape, store};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn prefill(c: &mut Criterion) {
    let (shape, store) = (shape("smollm2-135m"), store("prefill"));
    let adapters = make(&shape, &store, "lora", 1, &["--rank", "16", "--targets", "all-linear"]);
    let bench = Bench::load(&shape, &store);
    let mut group = c.benchmark_group("prefill");
    group.sample_size(10);
    let mut salt = 0;
    for tokens in [32, 128, 512] {
        for (name, adapter) in [("base", None), ("lora r16", Some(adapters[0].as_str()))] {
            group.throughput(Throughput::Elements(tokens as u64));
            group.bench_function(BenchmarkId::new(name, tokens), |b| {
                b.iter(|| bench.prefill(adapter, tokens, &mut salt))
            });
        }
    }
    group.finish();
}

criterion_group!(benches, prefill);
criterion_main!(benches);
