//! Adapters that are made to measure with.

use std::path::Path;

use rstest::rstest;
use serde_json::Value;

use super::in_process::measure;
use super::run::{check_tokens, command};
use crate::http::harness::fixtures;

/// Makes two adapters for a base of the fixtures.
#[track_caller]
fn make(base: &str, folder: &Path, more: &[&str]) {
    let source = format!("bases.0.source={}", fixtures().join("bases").join(base).display());
    let output = command()
        .args(["--make-adapters", &folder.display().to_string(), "--count", "2", "--rank", "4"])
        .args(["--set", &format!("bases.0.name={base}"), "--set", &source, "--seed", "1"])
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("0000..0001"));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_that_is_made_for_a_decoder_is_read_and_runs(#[values("llama", "qwen3", "gpt2")] base: &str) {
    let store = tempfile::tempdir().unwrap();
    make(base, store.path(), &["--kind", "lora", "--targets", "all-linear", "--dtype", "bf16"]);
    make(base, store.path(), &["--kind", "dora", "--dtype", "f16"]);
    make(base, store.path(), &["--kind", "ia3"]);
    make(base, store.path(), &["--kind", "prompt_tuning", "--virtual-tokens", "3"]);
    make(base, store.path(), &["--kind", "prefix_tuning", "--virtual-tokens", "5"]);
    let kinds = ["lora", "dora", "ia3", "prompt_tuning", "prefix_tuning"];
    let adapters = kinds.map(|kind| format!("bench-{kind}-0000..0001")).join(",");
    let load = ["--concurrency", "4", "--requests", "20", "--prompt-tokens", "10", "--output-tokens", "3"];
    let run = measure(base, store.path(), &[&load[..], &["--adapters", &adapters]].concat()).await;
    assert_eq!(run.measured()[0]["adapters"], 10);
    check_tokens(&run.measured()[0], 3.0);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_that_is_made_with_a_head_is_read_and_classifies(#[values("llama", "bert")] base: &str) {
    let store = tempfile::tempdir().unwrap();
    let kinds = ["lora", "dora", "ia3", "prompt_tuning", "prefix_tuning"];
    for kind in kinds {
        make(base, store.path(), &["--kind", kind, "--labels", "3", "--targets", "all-linear"]);
    }
    let adapters = kinds.map(|kind| format!("bench-{kind}-0000..0001")).join(",");
    let load = ["--concurrency", "4", "--requests", "20", "--prompt-tokens", "10", "--task", "classify"];
    measure(base, store.path(), &[&load[..], &["--adapters", &adapters]].concat()).await.measured();
}

#[test]
fn modules_are_named_as_short_as_is_exact_and_a_seed_decides_the_weights() {
    let made = |base: &str, more: &[&str], at: &str| {
        let folder = tempfile::tempdir().unwrap();
        make(base, folder.path(), more);
        let read = |file: &str| std::fs::read(folder.path().join(at).join(file)).unwrap();
        let settings: Value = serde_json::from_slice(&read("adapter_config.json")).unwrap();
        (settings, read("adapter_model.safetensors"))
    };
    let (lora, weights) = made("llama", &[], "bench-lora-0001");
    assert_eq!(lora["target_modules"], serde_json::json!(["q_proj", "v_proj"]));
    assert_eq!(weights, made("llama", &[], "bench-lora-0001").1);
    assert_ne!(weights, made("llama", &[], "bench-lora-0000").1);
    // GPT-2 has two modules c_proj in each layer.
    let (ia3, _) = made("gpt2", &["--kind", "ia3"], "bench-ia3-0000");
    let feedforward = serde_json::json!(["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]);
    assert_eq!(ia3["feedforward_modules"], feedforward);
    assert_eq!(ia3["target_modules"][0], "c_attn");
}

#[rstest]
#[case::encoder(&["--set", "bases.0.name=bert"], &["--labels"])]
#[case::rank(&["--rank", "999"], &["--rank", "256", "999"])]
#[case::base(&["--base", "other"], &["other"])]
#[case::alone(&["--kind", "dora"], &["--make-adapters"])]
fn what_cannot_be_made_is_said(#[case] arguments: &[&str], #[case] parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let base = if arguments.contains(&"bases.0.name=bert") { "bert" } else { "llama" };
    let source = format!("bases.0.source={}", fixtures().join("bases").join(base).display());
    let mut command = command();
    if !arguments.contains(&"--kind") {
        command.args(["--make-adapters", &folder.path().display().to_string()]);
    }
    let output = command.args(["--set", &source]).args(arguments).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
