//! `POST /v1/classify`.

use rstest::rstest;
use serde_json::{Value, json};

use super::harness::{Holds, Server, fixtures};

#[rstest]
#[case("llama", "cls-lora")]
#[case("llama", "cls-lora-one")]
#[case("llama", "cls-prefix")]
#[case("bert", "lora")]
#[case("bert", "lora-multi")]
#[case("bert", "prompt")]
#[tokio::test]
async fn scores_are_pefts(#[case] base: &str, #[case] adapter: &str) {
    let server = Server::start(Holds::Several);
    let text = std::fs::read(fixtures().join(format!("golden/{base}.json"))).unwrap();
    let golden: Value = serde_json::from_slice(&text).unwrap();
    let entry = golden["entries"].as_array().unwrap().iter().find(|entry| entry["adapter"] == adapter).unwrap();
    server.push("x", &format!("{base}/{adapter}"), entry["metadata"].clone()).await.ok();
    let cases = entry["classify"].as_array().unwrap();
    let inputs: Vec<&Value> = cases.iter().map(|case| &case["input"]).collect();
    let answer = server.post("/v1/classify", json!({"adapter_id": "x", "input": inputs})).await.ok();
    assert_eq!((&answer["adapter_version"], &answer["base"]), (&json!(1), &json!(base)));
    for (case, result) in cases.iter().zip(answer["results"].as_array().unwrap()) {
        let labels = result["labels"].as_array().unwrap();
        for (name, score) in
            entry["metadata"]["labels"].as_array().unwrap().iter().zip(case["scores"].as_array().unwrap())
        {
            let ours = labels.iter().find(|label| label["label"] == *name).unwrap()["score"].as_f64().unwrap();
            assert!((ours - score.as_f64().unwrap()).abs() < 2e-3, "{name}: {ours} against {score}");
        }
        let scores: Vec<f64> = labels.iter().map(|label| label["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    }
}

#[tokio::test]
async fn labels_are_cut_to_top_k_and_predicted_by_the_threshold() {
    let server = Server::start(Holds::Several);
    let metadata = json!({"labels": ["A", "B", "C"], "problem_type": "multi_label_classification"});
    server.push("multi", "llama/cls-lora", metadata).await.ok();
    let ask = |threshold: f64| json!({"adapter_id": "multi", "input": "You are a very nice person", "threshold": threshold, "top_k": 2});
    let all = server.post("/v1/classify", ask(0.0)).await.ok();
    assert_eq!(all["results"][0]["labels"].as_array().unwrap().len(), 2);
    assert_eq!(all["results"][0]["predicted"].as_array().unwrap().len(), 3);
    let none = server.post("/v1/classify", ask(1.0)).await.ok();
    assert_eq!(none["results"][0]["predicted"], json!([]));
}

#[tokio::test]
async fn labels_are_numbered_where_the_upload_names_none() {
    let server = Server::start(Holds::Several);
    server.push("plain", "llama/cls-lora", Value::Null).await.ok();
    let answer = server.post("/v1/classify", json!({"adapter_id": "plain", "input": "a"})).await.ok();
    let mut labels: Vec<&str> = answer["results"][0]["labels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|label| label["label"].as_str().unwrap())
        .collect();
    labels.sort_unstable();
    assert_eq!(labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
    assert_eq!(answer["results"][0]["predicted"].as_array().unwrap().len(), 1);
}

#[rstest]
#[case::unknown_field(json!({"adapter_id": "labels", "input": "a", "parameters": {}}), &["parameters", "unknown field"])]
#[case::no_input(json!({"adapter_id": "labels"}), &["input", "missing field"])]
#[case::threshold(json!({"adapter_id": "labels", "input": "a", "threshold": 2}), &["from 0 to 1", "given 2"])]
#[case::top_k(json!({"adapter_id": "labels", "input": "a", "top_k": 0}), &["at least 1", "given 0"])]
#[case::truncate(json!({"adapter_id": "labels", "input": "a", "truncate": 0}), &["at least 1", "given 0"])]
#[case::too_long(json!({"adapter_id": "labels", "input": "word ".repeat(400)}), &["context of base llama is 256", "truncate"])]
#[case::generator(json!({"adapter_id": "lora", "input": "a"}), &["lora", "/v1/generate"])]
#[case::plain_base(json!({"base": "llama", "input": "a"}), &["llama", "adapter_id"])]
#[tokio::test]
async fn what_cannot_be_classified_is_422(#[case] body: Value, #[case] parts: &[&str]) {
    let server = Server::start(Holds::Several);
    server.push("labels", "llama/cls-lora", Value::Null).await.ok();
    server.push("lora", "llama/lora", Value::Null).await.ok();
    server.post("/v1/classify", body).await.refused(422, "validation", parts);
}

#[tokio::test]
async fn usage_counts_every_token_that_was_sent() {
    let server = Server::start(Holds::Several);
    server.push("labels", "llama/cls-lora", Value::Null).await.ok();
    let ask =
        async |input: &str| server.post("/v1/classify", json!({"adapter_id": "labels", "input": input})).await.ok();
    // The tiny Llama's padding, which its head does not look at.
    let (plain, padded) = (ask("a dog").await, ask("a dog<|im_end|><|im_end|>").await);
    assert_eq!(padded["results"], plain["results"]);
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(tokens(&padded), tokens(&plain) + 2);
}

#[tokio::test]
async fn null_is_what_is_left_out() {
    let server = Server::start(Holds::Llama);
    server.push("labels", "llama/cls-lora", Value::Null).await.ok();
    let nulls = json!({"adapter_id": "labels", "input": "a", "base": null, "threshold": null, "top_k": null, "truncate": null, "priority": null, "timeout_ms": null});
    server.post("/v1/classify", nulls).await.ok();
    let nulls = json!({"input": "a", "adapter_id": null, "base": null, "messages": null, "parameters": null, "details": null, "stream": null, "truncate": null, "priority": null, "timeout_ms": null});
    server.post("/v1/generate", nulls).await.ok();
}

#[tokio::test]
async fn a_long_text_is_cut_from_its_end_and_keeps_its_special_tokens() {
    let server = Server::start(Holds::Several);
    server.push("labels", "bert/lora", Value::Null).await.ok();
    let ask = |input: &str| json!({"adapter_id": "labels", "input": input, "truncate": 6});
    let long = server.post("/v1/classify", ask(&"the dog said that the log was not here ".repeat(3))).await.ok();
    assert_eq!(long["usage"]["prompt_tokens"], 6);
    let short = server.post("/v1/classify", ask(&"the dog said that the log was not here ".repeat(2))).await.ok();
    assert_eq!(long["results"], short["results"]);
}
