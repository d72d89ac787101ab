//! The engine under load, without a server.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::run::{Run, bench, check_tokens};
use crate::http::harness::fixtures;

/// A store with adapters of the fixtures.
pub fn store(adapters: &[(&str, &str)]) -> TempDir {
    let store = tempfile::tempdir().unwrap();
    for (name, folder) in adapters {
        let to = store.path().join(name);
        std::fs::create_dir(&to).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(fixtures().join("adapters").join(folder).join(file), to.join(file)).unwrap();
        }
    }
    store
}

/// A run over a base of the fixtures and a store.
pub async fn measure(base: &str, store: &Path, more: &[&str]) -> Run {
    let name = format!("bases.0.name={base}");
    let source = format!("bases.0.source={}", fixtures().join("bases").join(base).display());
    let store = format!("adapters.store={}", store.display());
    let database = format!("database.url=sqlite://{}", tempfile::tempdir().unwrap().path().join("db").display());
    let sets = [&name, &source, &store, &database, "server.threads=1"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    bench(&[&["--in-process"], &sets[..], more].concat()).await
}

#[tokio::test]
async fn adapters_of_every_kind_run_together_and_the_parts_of_their_steps_are_told() {
    let store =
        store(&[("lora", "llama/lora"), ("kv", "llama/prefix"), ("soft", "llama/prompt"), ("ia3", "llama/ia3")]);
    let load = ["--adapters", "none,lora,kv,soft,ia3", "--concurrency", "2,6", "--requests", "20", "--profile"];
    let more = ["--prompt-tokens", "30", "--output-tokens", "4", "--shared-prefix", "16"];
    let run = measure("llama", store.path(), &[&load[..], &more].concat()).await;
    assert_eq!(run.measured().len(), 2);
    for point in run.measured() {
        assert_eq!(point["adapters"], 4);
        check_tokens(point, 4.0);
    }
    for part in ["linear", "adapters", "attention", "sample", "the rest", "step"] {
        assert_eq!(run.table.lines().filter(|line| line.trim_start().starts_with(part)).count(), 2, "{}", run.table);
    }
}

#[tokio::test]
async fn heads_are_run_and_what_http_would_refuse_is_refused() {
    let store = store(&[("labels", "bert/lora")]);
    let load = ["--adapters", "labels", "--concurrency", "2", "--requests", "6", "--prompt-tokens", "20"];
    let run = measure("bert", store.path(), &[&load[..], &["--task", "classify"]].concat()).await;
    assert_eq!(run.measured()[0]["output_tokens_per_s"], json!(0.0));
    let refused = measure("bert", store.path(), &load).await;
    assert!(!refused.ok && refused.table.contains("--task classify"), "{}", refused.table);
    assert_eq!(refused.points[0]["errors"], 6);
}
