//! Golden tests from upload to answer: text in, JSON out, compared with PEFT and transformers.

use serde_json::{Value, json};

use super::harness::{Server, fixtures};

fn entries(base: &str) -> Vec<Value> {
    let golden = std::fs::read(fixtures().join(format!("golden/{base}.json"))).unwrap();
    serde_json::from_slice::<Value>(&golden).unwrap()["entries"].as_array().unwrap().clone()
}

fn cases<'a>(entry: &'a Value, kind: &str) -> &'a [Value] {
    entry[kind].as_array().map_or(&[], Vec::as_slice)
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// A case as a request: everything it names, decided as transformers was told.
fn request(adapter: &Value, case: &Value) -> Value {
    let mut parameters = json!({"do_sample": false, "return_full_text": false});
    for key in [
        "max_new_tokens",
        "num_beams",
        "num_return_sequences",
        "length_penalty",
        "early_stopping",
        "repetition_penalty",
        "no_repeat_ngram_size",
    ] {
        if let Some(value) = case.get(key) {
            parameters[key] = value.clone();
        }
    }
    json!({"adapter_id": adapter, "input": case["input"], "details": true, "parameters": parameters})
}

async fn check_greedy(server: &Server, adapter: &Value, case: &Value) {
    let output = server.post("/v1/generate", request(adapter, case)).await.ok()["outputs"][0].clone();
    let mut expected = ids(&case["token_ids"]);
    if output["finish_reason"] == "eos" {
        expected.pop();
    }
    let tokens = output["tokens"].as_array().unwrap();
    assert_eq!(
        tokens.iter().map(|token| token["id"].as_u64().unwrap()).collect::<Vec<_>>(),
        expected,
        "{adapter} {case}"
    );
    for (token, expected) in tokens.iter().zip(case["logprobs"].as_array().unwrap_or(&vec![])) {
        let (ours, theirs) = (token["logprob"].as_f64().unwrap(), expected.as_f64().unwrap());
        assert!((ours - theirs).abs() < 2e-3, "{adapter} {case}: {ours} against {theirs}");
    }
    assert_eq!(output["text"], case["text"], "{adapter} {case}");
}

async fn check_beams(server: &Server, adapter: &Value, case: &Value) {
    let answer = server.post("/v1/generate", request(adapter, case)).await.ok();
    let texts: Vec<&Value> = answer["outputs"].as_array().unwrap().iter().map(|output| &output["text"]).collect();
    assert_eq!(texts, case["texts"].as_array().unwrap().iter().collect::<Vec<_>>(), "{adapter} {case}");
}

async fn check_scores(server: &Server, adapter: &Value, labels: &Value, case: &Value) {
    let body = json!({"adapter_id": adapter, "input": case["input"]});
    let answer = server.post("/v1/classify", body).await.ok();
    let scored = answer["results"][0]["labels"].as_array().unwrap();
    assert_eq!(scored.len(), case["scores"].as_array().unwrap().len());
    for (label, expected) in labels.as_array().unwrap().iter().zip(case["scores"].as_array().unwrap()) {
        let ours = scored.iter().find(|scored| scored["label"] == *label).unwrap()["score"].as_f64().unwrap();
        assert!((ours - expected.as_f64().unwrap()).abs() < 1e-3, "{adapter} {case}: {label} {ours}");
    }
}

/// Uploads every adapter of a base and asks it everything its golden file holds; `source` is the base's folder or file.
async fn check(base: &str, source: &str) {
    let server = Server::over(&[source]);
    for entry in entries(base) {
        let adapter = &entry["adapter"];
        if let Some(name) = adapter.as_str() {
            let pushed = server.push(name, &format!("{base}/{name}"), entry["metadata"].clone()).await;
            assert_eq!(pushed.status, 201, "{name}: {}", pushed.text());
            assert_eq!(pushed.json()["task"], entry["metadata"]["task"]);
        }
        for case in cases(&entry, "generate").iter().chain(cases(&entry, "penalties")) {
            check_greedy(&server, adapter, case).await;
        }
        for case in cases(&entry, "beam") {
            check_beams(&server, adapter, case).await;
        }
        for case in cases(&entry, "classify") {
            check_scores(&server, adapter, &entry["metadata"]["labels"], case).await;
        }
    }
}

#[rstest::rstest]
#[tokio::test(flavor = "multi_thread")]
async fn uploads_answer_over_http_as_in_peft(
    #[values("llama", "llama3", "mistral", "qwen2", "qwen3", "gpt2", "gpt2st", "bert", "bert-old")] base: &str,
) {
    check(base, base).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gguf_file_answers_over_http_as_the_folder_it_was_made_from() {
    check("llama", "llama.gguf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_answered_through_the_chat_template() {
    let server = Server::over(&["llama"]);
    let messages = json!([{"role": "user", "content": "What is it?"}]);
    let asked = json!({"messages": messages, "parameters": {"max_new_tokens": 4}});
    let answer = server.post("/v1/generate", asked).await.ok();
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 8, "the template adds its own tokens: {answer}");
}
