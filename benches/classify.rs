//! Texts of 5 to 50 tokens under sixteen adapters with heads, on the shape of MiniLM.

mod common;

use common::{Bench, make, shape, store};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn classify(c: &mut Criterion) {
    let (shape, store) = (shape("minilm"), store("classify"));
    let adapters = make(&shape, &store, "lora", 16, &["--rank", "8", "--labels", "4"]);
    let bench = Bench::load(&shape, &store);
    let mut group = c.benchmark_group("classify");
    group.sample_size(10);
    let mut salt = 0;
    for texts in [1, 16, 64] {
        let lengths: Vec<usize> = (0..texts).map(|text| 5 + (45 * text + 22) / texts).collect();
        group.throughput(Throughput::Elements(texts as u64));
        group.bench_function(BenchmarkId::new("16 adapters", texts), |b| {
            b.iter(|| bench.classify(&adapters, &lengths, &mut salt));
        });
    }
    group.finish();
}

criterion_group!(benches, classify);
criterion_main!(benches);
