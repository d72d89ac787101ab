//! Adapters as PEFT and ruprompts save them (tests/fixtures/adapters), read against their bases.

use std::sync::Arc;

use repertoire::adapter::{Adapter, Kind, Metadata, SiteMap, TaskKind, TokenCounter};
use repertoire::model::{BLOCK_TOKENS, BaseModel, Batch, BlockId, KvShape, KvStore, Output, RowSpec};
use repertoire::text::Tokenizer;
use serde_json::Value;

use crate::adapter_bases::{LIMITS, altered, base, fixtures, model, package};

/// Reads every fixture and compares its scores, or its greedy answer's log-probabilities, with PEFT's.
#[test]
fn every_fixture_answers_as_peft_does() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for name in ["llama", "llama3", "mistral", "qwen2", "qwen3", "gpt2", "gpt2st", "bert", "bert-old"] {
        let golden = std::fs::read(fixtures().join(format!("golden/{name}.json"))).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let model = model(name);
        let sites = with_tokenizer(name, model.sites());
        for entry in golden["entries"].as_array().unwrap() {
            let Some(folder) = entry["adapter"].as_str() else { continue };
            let metadata = serde_json::from_value::<Metadata>(entry["metadata"].clone()).unwrap();
            let labels = metadata.labels.clone();
            count += 1;
            match Adapter::read(&package(name, folder, metadata), std::slice::from_ref(&sites), &LIMITS) {
                Ok(adapter) => {
                    assert_eq!(adapter.head.as_ref().map(|head| head.labels.clone()), labels, "{name}/{folder}");
                    let adapter = Arc::new(adapter);
                    wrong.extend(check(model.as_ref(), &adapter, entry).map(|why| format!("{name}/{folder}: {why}")));
                }
                Err(error) => wrong.push(format!("{name}/{folder}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 120, "{count} fixtures");
}

fn with_tokenizer(name: &str, sites: &Arc<SiteMap>) -> Arc<SiteMap> {
    let tokenizer = Tokenizer::from_folder(&fixtures().join("bases").join(name)).unwrap();
    let count = move |text: &str| Some(tokenizer.encode(text, true).ok()?.len());
    altered(sites, |map| map.count_tokens = Some(TokenCounter(Arc::new(count))))
}

/// The first of PEFT's answers that ours differs from.
fn check(model: &dyn BaseModel, adapter: &Arc<Adapter>, entry: &Value) -> Option<String> {
    for case in entry["generate"].as_array().into_iter().flatten() {
        let (ids, expected) = (numbers(&case["prompt_ids"]), numbers(&case["token_ids"]));
        let vocab = model.sites().vocab as f64;
        // -1 stands for the rows of a ruprompts prompt, in order; leading rows are not written down.
        let mut rows = 0.0..;
        let mut tokens: Vec<u32> = (0..adapter.leading_virtual_tokens()).map(|i| vocab as u32 + i as u32).collect();
        tokens.extend(ids.iter().map(|&id| if id < 0.0 { (vocab + next(&mut rows)) as u32 } else { id as u32 }));
        let ours = logprobs(model, adapter, tokens, &expected);
        for (ours, theirs) in ours.iter().zip(numbers(&case["logprobs"])) {
            if (f64::from(*ours) - theirs).abs() > 2e-3 {
                return Some(format!("{} {ours} against {theirs}", case["input"]));
            }
        }
    }
    let config = fixtures().join("bases").join(&model.sites().base).join("config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    let padding = config["pad_token_id"].as_u64().map(|id| id as u32);
    for case in entry["classify"].as_array().into_iter().flatten() {
        let mut tokens: Vec<u32> =
            (0..adapter.leading_virtual_tokens()).map(|i| (model.sites().vocab + i) as u32).collect();
        tokens.extend(numbers(&case["ids"]).iter().map(|&id| id as u32));
        // Decoders score the last token that is not padding; what follows it does not reach it. With virtual tokens
        // transformers sees embeddings only, and takes the last position.
        let last = tokens.iter().rposition(|&token| Some(token) != padding).unwrap_or(0);
        if model.sites().causal && adapter.virtual_tokens.is_none() {
            tokens.truncate(last + 1);
        }
        let (mut kv, blocks, start) = store(model, adapter, tokens.len());
        let spec = RowSpec { adapter: Some(adapter.clone()), tokens, start, blocks, output: Output::Scores };
        let scores = model.forward(&Batch::group(vec![spec]).0, &mut kv).unwrap().scores;
        for (ours, theirs) in scores[0].iter().zip(numbers(&case["logits"])) {
            if (f64::from(*ours) - theirs).abs() > 2e-3 {
                return Some(format!("{} {ours} against {theirs}", case["input"]));
            }
        }
    }
    None
}

fn next(rows: &mut std::ops::RangeFrom<f64>) -> f64 {
    rows.start += 1.0;
    rows.start - 1.0
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn store(model: &dyn BaseModel, adapter: &Adapter, tokens: usize) -> (KvStore, Vec<BlockId>, usize) {
    let shape = model.kv_shape().unwrap_or(KvShape { layers: 1, kv_heads: 1, head_dim: 1 });
    let causal = model.kv_shape().is_some();
    let start = adapter.prefix_len();
    let blocks: Vec<BlockId> = (0..(start + tokens).div_ceil(BLOCK_TOKENS) as u32).map(BlockId).collect();
    let mut kv = KvStore::new(shape, blocks.len(), &candle_core::Device::Cpu).unwrap();
    if let Some(prefix) = adapter.prefix.as_ref().filter(|_| causal) {
        kv.write_prefix(prefix, &blocks).unwrap();
    }
    (kv, if causal { blocks } else { vec![] }, start)
}

/// The log-probability of each token of `answer` after `prompt` and those before it.
fn logprobs(model: &dyn BaseModel, adapter: &Arc<Adapter>, prompt: Vec<u32>, answer: &[f64]) -> Vec<f32> {
    let (mut kv, blocks, mut start) = store(model, adapter, prompt.len() + answer.len());
    let mut tokens = prompt;
    let mut out = Vec::new();
    for &token in answer {
        let count = tokens.len();
        let (adapter, blocks) = (Some(adapter.clone()), blocks.clone());
        let spec = RowSpec { adapter, tokens, start, blocks, output: Output::Logits };
        let logits = model.forward(&Batch::group(vec![spec]).0, &mut kv).unwrap().logits.unwrap();
        let logits = logits.get(0).unwrap().to_vec1::<f32>().unwrap();
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|l| (l - max).exp()).sum();
        out.push(logits[token as usize] - max - sum.ln());
        start += count;
        tokens = vec![token as u32];
    }
    out
}

#[test]
fn a_plain_lora_holds_what_its_file_has() {
    let package = package("llama", "lora", Metadata::default());
    let adapter = Adapter::read(&package, &[base("llama")], &LIMITS).unwrap();
    assert_eq!((adapter.kind, adapter.task, adapter.rank), (Kind::Lora, TaskKind::Generate, 4));
    assert_eq!(adapter.digest, package.digest());
    let patches: Vec<_> = adapter.patches.iter().flatten().collect();
    assert_eq!(patches.len(), 4);
    assert!(patches.iter().all(|patch| patch.low_rank.as_ref().is_some_and(|p| p.scale == 2.0)));
}
