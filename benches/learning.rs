//! Training steps of a LoRA (rank 8): texts on the shape of MiniLM, answers on that of SmolLM2-135M.

mod common;

use std::path::Path;

use candle_core::DType;
use common::{make, shape, store};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use repertoire::adapter::{Adapter, Metadata, Package, ReadLimits};
use repertoire::model::load::{Precision, WeightFiles, load_folder};
use repertoire::model::{BaseModel, Targets};
use repertoire::train::{AdamW, MicroBatch, Parameters, Step};

/// A base, what learns on it, and what it learns from.
struct Lesson {
    model: Box<dyn BaseModel>,
    parameters: Parameters,
    batch: MicroBatch,
}

impl Lesson {
    fn new(name: &str, rows: usize, tokens: usize, flags: &[&str]) -> Self {
        let (shape, store) = (shape(name), store(&format!("learning-{name}")));
        let config = shape.join("config.json");
        let precision = Precision::As(DType::F32);
        let model = load_folder("base", vec![], &config, &WeightFiles::Dummy, precision, None).expect("a base");
        let sites = model.sites().clone();
        let made = make(&shape, &store, "lora", 1, flags);
        let adapter = read(&store.join(&made[0]), &sites);
        let id = |at: usize| (3 + at * 40_503 % (sites.vocab - 3)) as u32;
        let texts: Vec<Vec<u32>> = (0..rows).map(|row| (0..tokens).map(|at| id(row * tokens + at)).collect()).collect();
        let targets = match &adapter.head {
            Some(head) => {
                Targets::Label { of_rows: (0..rows).map(|row| row % head.labels.len()).collect(), weights: None }
            }
            None => Targets::Tokens((0..rows * tokens - 1).map(|line| (line, id(line + 1))).collect()),
        };
        let parameters = Parameters::of(&adapter, &sites).expect("f32 on the CPU");
        Self { model, parameters, batch: MicroBatch { rows: texts, targets } }
    }

    fn step(&mut self, room: usize) -> f64 {
        let Self { model, parameters, batch } = self;
        let mut step = Step::new(parameters, vec![batch.clone()], room).expect("a step");
        loop {
            let done = step.advance(&mut **model, parameters, &AdamW::default(), 1e-4, 1).expect("a piece");
            if let Some(stepped) = done {
                return stepped.loss;
            }
        }
    }
}

/// Reads a made adapter.
fn read(folder: &Path, sites: &std::sync::Arc<repertoire::adapter::SiteMap>) -> Adapter {
    let metadata = std::fs::read(folder.join("repertoire.json")).ok();
    let metadata: Metadata =
        metadata.map_or_else(Metadata::default, |text| serde_json::from_slice(&text).expect("metadata"));
    let files = ["adapter_config.json", "adapter_model.safetensors"]
        .map(|file| (file.to_owned(), std::fs::read(folder.join(file)).expect("it was made").into()));
    let package = Package { files: files.into_iter().collect(), metadata };
    Adapter::read(&package, std::slice::from_ref(sites), &ReadLimits { max_rank: 64 }).expect("an adapter")
}

fn learning(c: &mut Criterion) {
    let mut group = c.benchmark_group("learning");
    group.sample_size(10);
    let with_head = ["--rank", "8", "--labels", "2"];
    let cases = [("minilm", 32, 50, &with_head[..]), ("smollm2-135m", 4, 256, &["--rank", "8"])];
    for (name, rows, tokens, flags) in cases {
        let mut lesson = Lesson::new(name, rows, tokens, flags);
        group.throughput(Throughput::Elements((rows * tokens) as u64));
        for (how, room) in [("all kept", usize::MAX), ("computed twice", 0)] {
            group.bench_function(BenchmarkId::new(name, how), |b| b.iter(|| lesson.step(room)));
        }
    }
    group.finish();
}

criterion_group!(benches, learning);
criterion_main!(benches);
