//! Golden tests: the answers of PEFT and transformers on tiny random bases (scripts/fixtures made them).
//! Bodies and adapters alone, without engine and HTTP: what goes wrong here is arithmetic.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use repertoire::adapter::Adapter;
use repertoire::model::load::{Precision, WeightFiles, load_folder};
use repertoire::model::{BLOCK_TOKENS, BaseModel, Batch, BlockId, KvStore, Output, RowSpec};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn base(name: &str) -> Box<dyn BaseModel> {
    let folder = fixtures().join("bases").join(name);
    let mut shards: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    shards.sort();
    let files = match shards.is_empty() {
        true => WeightFiles::Pickle(folder.join("pytorch_model.bin")),
        false => WeightFiles::Safetensors(shards),
    };
    load_folder(name, vec![], &folder.join("config.json"), &files, Precision::Stored).unwrap()
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|l| (l - max).exp()).sum();
    logits.iter().map(|l| l - max - sum.ln()).collect()
}

/// Greedy decoding by hand: ids and log-probabilities.
fn greedy(
    model: &dyn BaseModel,
    adapter: Option<Arc<Adapter>>,
    prompt: Vec<u32>,
    count: usize,
) -> (Vec<u32>, Vec<f32>) {
    let prefix = adapter.as_ref().and_then(|a| a.prefix.as_ref()).map_or(0, |p| p.count);
    let blocks: Vec<BlockId> =
        (0..(prefix + prompt.len() + count).div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();
    let mut kv = KvStore::new(model.kv_shape().unwrap(), blocks.len(), &candle_core::Device::Cpu).unwrap();
    if let Some(prefix) = adapter.as_ref().and_then(|a| a.prefix.as_ref()) {
        kv.write_prefix(prefix, &blocks).unwrap();
    }
    let (mut ids, mut logprobs, mut tokens, mut start) = (vec![], vec![], prompt, prefix);
    while ids.len() < count {
        let len = tokens.len();
        let spec = RowSpec { adapter: adapter.clone(), tokens, start, blocks: blocks.clone(), output: Output::Logits };
        let outputs = model.forward(&Batch::group(vec![spec]).0, &mut kv).unwrap();
        let logits = log_softmax(&outputs.logits.unwrap().get(0).unwrap().to_vec1::<f32>().unwrap());
        let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        ids.push(best as u32);
        logprobs.push(logits[best]);
        start += len;
        tokens = vec![best as u32];
    }
    (ids, logprobs)
}

fn numbers<T>(value: &Value, f: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().unwrap().iter().map(|v| f(v).unwrap()).collect()
}

fn check_base(name: &str) {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join(format!("golden/{name}.json"))).unwrap()).unwrap();
    let model = base(name);
    let entry = &golden["entries"][0];
    assert!(entry["adapter"].is_null());
    for case in entry["generate"].as_array().unwrap() {
        let prompt = numbers(&case["prompt_ids"], |v| v.as_u64().map(|n| n as u32));
        let expected = numbers(&case["token_ids"], |v| v.as_u64().map(|n| n as u32));
        let expected_logprobs = numbers(&case["logprobs"], |v| v.as_f64().map(|n| n as f32));
        let (ids, logprobs) = greedy(model.as_ref(), None, prompt, expected.len());
        assert_eq!(ids, expected, "{name}: {}", case["input"]);
        for (ours, theirs) in logprobs.iter().zip(expected_logprobs) {
            assert!((ours - theirs).abs() < 2e-3, "{name}: {ours} against {theirs}");
        }
    }
}

#[test]
fn plain_decoders_answer_as_transformers_does() {
    for name in ["llama", "llama3", "mistral", "qwen2", "qwen3", "gpt2", "gpt2st"] {
        check_base(name);
    }
}
