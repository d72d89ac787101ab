//! Bases on a GPU: the golden, isolation and churn tests there. `scripts/gpu_check.sh` runs them where there is one.

mod load;

use candle_core::DType;
use repertoire::device::GpuTarget;
use repertoire::engine::{Parameters, Request, Work};
use repertoire::model::load::{LoadError, Precision, WeightFiles, load_folder};
use repertoire::text::Tokenizer;
use repertoire_kernels::cuda::Gpu;

use crate::churn;
use crate::golden::bench::{Bench, ROOM, fixtures};
use crate::golden::case::{Golden, Heard, hear};
use crate::isolation::check_within;

/// Bases whose shapes a GPU takes.
const BASES: [&str; 6] = ["llama", "llama3", "qwen2", "gpt2", "gpt2st", "bert"];
/// How far logarithms of probabilities may be off in f32.
const TOLERANCE: f32 = 1e-2;

/// The first GPU, with room for `adapter_bytes` bytes of adapters.
fn target(adapter_bytes: usize) -> Option<GpuTarget> {
    Some(GpuTarget { gpu: Gpu::open(0).unwrap(), adapter_bytes })
}

fn bench(base: &str, dtype: DType, kv_bytes: usize) -> Bench {
    Bench::on(base, kv_bytes, Precision::As(dtype), target(1 << 20))
}

#[tokio::test]
#[ignore = "needs a GPU"]
async fn bases_answer_as_peft_does() {
    for base in BASES {
        let golden = Golden::on(bench(base, DType::F32, ROOM), base, TOLERANCE);
        for entry in golden.entries() {
            golden.check(&entry).await;
        }
    }
}

/// Tokens whose choice was clear, and how many of them were others.
#[derive(Default)]
struct Agreement {
    clear: usize,
    others: usize,
}

impl Agreement {
    /// Compares answers up to where their words part.
    fn count(&mut self, exact: &Heard, heard: &Heard) {
        for (exact, heard) in exact.answers.iter().zip(&heard.answers) {
            for (exact, heard) in exact.tokens().iter().zip(heard.tokens()) {
                let margin = exact.top_logprobs[0].logprob - exact.top_logprobs[1].logprob;
                self.clear += usize::from(margin > 0.1);
                if exact.id != heard.id {
                    self.others += usize::from(margin > 0.1);
                    break;
                }
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs a GPU"]
async fn in_16_bits_tokens_agree_where_the_choice_is_clear() {
    for dtype in [DType::BF16, DType::F16] {
        let mut agreement = Agreement::default();
        for base in BASES {
            // The CPU computes in f32 with weights rounded alike.
            let exact = Golden::on(Bench::on(base, ROOM, Precision::As(dtype), None), base, 0.0);
            let golden = Golden::on(bench(base, dtype, ROOM), base, 0.0);
            for entry in golden.entries() {
                for case in entry["generate"].as_array().unwrap_or(&vec![]) {
                    let asked = |golden: &Golden| {
                        let mut request = golden.request_for(&entry, case);
                        if let Work::Generate(parameters) = &mut request.work {
                            parameters.logprobs = 2;
                        }
                        golden.engine().submit(request).unwrap()
                    };
                    agreement.count(&hear(asked(&exact)).await, &hear(asked(&golden)).await);
                }
            }
        }
        let Agreement { clear, others } = agreement;
        println!("{dtype:?}: {others} of {clear} tokens with a margin over 0.1 are others");
        assert!(clear > 500 && others * 100 <= clear, "{others} of {clear} tokens are others");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a GPU"]
async fn rows_of_all_kinds_answer_together_as_alone() {
    for base in ["llama", "gpt2", "bert"] {
        assert!(check_within(&Golden::on(bench(base, DType::F32, ROOM), base, TOLERANCE), TOLERANCE).await >= 64);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a GPU"]
async fn rows_that_had_to_give_their_blocks_to_others_answer_as_alone() {
    let golden = Golden::on(bench("llama", DType::F32, 4096 * 12), "llama", TOLERANCE);
    assert!(check_within(&golden, TOLERANCE).await >= 64);
    let stats = golden.engine().stats();
    assert!(stats.preemptions >= 10, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a GPU"]
async fn adapters_that_do_not_fit_together_take_turns() {
    // Two or three of the largest at a time.
    let bench = Bench::on("llama", ROOM, Precision::As(DType::F32), target(200_000));
    assert!(check_within(&Golden::on(bench, "llama", TOLERANCE), TOLERANCE).await >= 64);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a GPU"]
async fn streams_keep_their_version_while_names_move() {
    churn::check(bench("llama", DType::F32, ROOM), TOLERANCE).await;
}

#[tokio::test]
#[ignore = "needs a GPU"]
async fn random_bases_answer_as_on_the_cpu() {
    let shape = serde_json::json!({
        "hidden_size": 128, "intermediate_size": 232, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 24, "vocab_size": 300, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
    });
    for family in ["llama", "mistral", "qwen2", "qwen3"] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = shape.clone();
        config["model_type"] = family.into();
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut heard = vec![];
        for target in [None, target(0)] {
            let precision = Precision::As(DType::F32);
            let model = load_folder(family, vec![], &path, &WeightFiles::Dummy, precision, target).unwrap();
            let bench = Bench::start(family, model, Tokenizer::bytes(), ROOM);
            let parameters = Parameters { max_new_tokens: 100, ignore_eos: true, ..Parameters::default() };
            let prompt = (0..150).map(|i| i * 7 % 251).collect();
            let request =
                Request { prompt, adapter: None, work: Work::Generate(parameters), priority: 0, timeout: None };
            heard.push(hear(bench.engine.submit(request).unwrap()).await);
        }
        assert!(heard[0].is(&heard[1], TOLERANCE), "{family}: {heard:?}");
    }
}

/// A request that draws in one of many ways.
fn drawing(seed: u64) -> Parameters {
    Parameters {
        do_sample: true,
        seed: Some(seed),
        temperature: 0.5 + seed as f32 / 20.0,
        top_k: [0, 40][seed as usize % 2],
        top_p: [1.0, 0.9][seed as usize / 2 % 2],
        min_p: [0.0, 0.05][seed as usize / 4 % 2],
        max_new_tokens: 40,
        ignore_eos: true,
        ..Parameters::default()
    }
}

/// Asks a GPU everything at once, and the CPU one after the other.
async fn check_with_the_cpu(asked: Vec<Parameters>) {
    let bench = |target| Bench::on("llama", ROOM, Precision::As(DType::F32), target);
    let (cpu, gpu) = (bench(None), bench(target(1 << 20)));
    let request = |parameters: &Parameters| {
        let prompt = vec![43, 80, 299, 67, 80, 91];
        Request { prompt, adapter: None, work: Work::Generate(parameters.clone()), priority: 0, timeout: None }
    };
    let streams: Vec<_> = asked.iter().map(|asked| gpu.engine.submit(request(asked)).unwrap()).collect();
    for (asked, stream) in asked.iter().zip(streams) {
        let (heard, expected) = (hear(stream).await, hear(cpu.engine.submit(request(asked)).unwrap()).await);
        assert!(heard.is(&expected, TOLERANCE), "{asked:?}: {heard:?}, on the CPU {expected:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a GPU"]
async fn tokens_are_drawn_as_on_the_cpu() {
    // Rows that draw in many ways, and some that do not, share steps.
    let asked = |seed| Parameters { num_return_sequences: 1 + seed as usize / 8 % 2, ..drawing(seed) };
    check_with_the_cpu((0..24).map(asked).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a GPU"]
async fn steps_that_begin_before_the_last_is_over_answer_as_on_the_cpu() {
    // Answers of many lengths, some of which end at a letter before that.
    let asked = |seed| Parameters {
        do_sample: seed % 3 > 0,
        max_new_tokens: 1 + seed as usize * 7 % 60,
        stop: if seed % 4 == 0 { vec!["e".into()] } else { vec![] },
        ..drawing(seed)
    };
    check_with_the_cpu((0..64).map(asked).collect()).await;
}

#[test]
#[ignore = "needs a GPU"]
fn a_base_of_a_shape_that_kernels_do_not_take_is_refused_by_name() {
    let folder = fixtures().join("bases/mistral");
    let config = folder.join("config.json");
    let loaded = load_folder("mistral", vec![], &config, &WeightFiles::Dummy, Precision::Stored, target(0));
    match loaded.err() {
        Some(LoadError::Unsupported(why)) => assert!(why.contains("head_dim 6") && why.contains("cpu"), "{why}"),
        other => panic!("{other:?}"),
    }
}
