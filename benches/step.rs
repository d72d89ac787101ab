//! A step without a model: who runs, and which tokens are chosen.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use repertoire::engine::Parameters;
use repertoire::engine::sampler::{Sampler, SequenceHistory, SequenceRng};
use repertoire::engine::scheduler::{Budget, Demand, Scheduler, UnitId};

const VOCAB: usize = 49_152;

fn scheduler(c: &mut Criterion) {
    let mut group = c.benchmark_group("scheduler");
    for rows in [8, 64, 256_u64] {
        group.throughput(Throughput::Elements(rows));
        group.bench_function(BenchmarkId::new("decode step", rows), |b| {
            let (prompt, answer) = (32, 1024);
            let demand = Demand { prefix: 0, prompt, answer, width: 1, cached: true, priority: 0 };
            let fresh = || {
                let blocks = demand.blocks() * rows as usize;
                let mut scheduler = Scheduler::new(Budget { tokens: 1 << 16, running: 256 }, blocks);
                (0..rows).for_each(|unit| scheduler.enqueue(UnitId(unit), demand, None, vec![unit as u32; prompt]));
                scheduler
            };
            let mut scheduler = fresh();
            let mut steps = 0;
            b.iter(|| {
                // Sequences must not grow without end: their lists of blocks are part of a plan.
                if steps == 512 {
                    (scheduler, steps) = (fresh(), 0);
                }
                steps += 1;
                let plan = scheduler.plan(1 << 16, |_| true);
                plan.rows.iter().for_each(|row| scheduler.grow(row.unit, &[(0, row.unit.0 as u32)]));
                plan.rows.len()
            });
        });
    }
    group.finish();
}

fn sampler(c: &mut Criterion) {
    let mut group = c.benchmark_group("sampler");
    let logits: Vec<f32> = (0..VOCAB as u32).map(|id| (id.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6).collect();
    let sampled = Parameters { do_sample: true, temperature: 0.8, ..Parameters::default() };
    let cases = [
        ("greedy", Parameters::default()),
        ("repetition penalty", Parameters { repetition_penalty: 1.1, ..Parameters::default() }),
        ("top_k 50", Parameters { top_k: 50, ..sampled.clone() }),
        ("top_p 0.9", Parameters { top_p: 0.9, ..sampled.clone() }),
        ("plain sampling", sampled),
        ("logprobs 5", Parameters { logprobs: 5, ..Parameters::default() }),
    ];
    for (name, parameters) in cases {
        group.bench_function(name, |b| {
            let history = SequenceHistory::new(&parameters, &[1, 2, 3]);
            let mut rng = SequenceRng::new(1, 0);
            let mut sampler = Sampler::new();
            b.iter(|| sampler.choose(&logits, &parameters, &history, &mut rng).expect("a token").id);
        });
    }
    group.finish();
}

criterion_group!(benches, scheduler, sampler);
criterion_main!(benches);
