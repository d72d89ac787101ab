//! `POST /v1/generate`.

use serde_json::{Value, json};

use super::harness::{Holds, Server, fixtures};

fn golden(base: &str) -> Vec<Value> {
    let text = std::fs::read(fixtures().join(format!("golden/{base}.json"))).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["entries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn answers_of_every_kind_of_adapter_are_pefts() {
    let server = Server::start(Holds::Llama);
    let kinds = ["lora", "dora", "ia3", "prompt", "p-tuning", "prefix", "ruprompts-text"];
    for entry in golden("llama") {
        let adapter = entry["adapter"].as_str();
        if adapter.is_some_and(|adapter| !kinds.contains(&adapter)) {
            continue;
        }
        if let Some(adapter) = adapter {
            server.push(adapter, &format!("llama/{adapter}"), entry["metadata"].clone()).await.ok();
        }
        for case in entry["generate"].as_array().unwrap() {
            let parameters = json!({"max_new_tokens": case["max_new_tokens"], "do_sample": false});
            let body =
                json!({"adapter_id": adapter, "input": case["input"], "parameters": parameters, "details": true});
            let answer = server.post("/v1/generate", body).await.ok();
            let output = &answer["outputs"][0];
            assert_eq!(output["text"], case["text"], "{adapter:?}: {}", case["input"]);
            let ids: Vec<&Value> = output["tokens"].as_array().unwrap().iter().map(|token| &token["id"]).collect();
            let mut expected: Vec<&Value> = case["token_ids"].as_array().unwrap().iter().collect();
            assert_eq!(answer["usage"]["completion_tokens"], expected.len());
            if output["finish_reason"] == "eos" {
                expected.pop();
            }
            assert_eq!(ids, expected, "{adapter:?}: {}", case["input"]);
            let prompt = case["prompt_ids"].as_array().map_or(0, Vec::len);
            assert!(adapter == Some("ruprompts-text") || answer["usage"]["prompt_tokens"] == prompt, "{answer}");
        }
    }
}

#[tokio::test]
async fn inputs_are_answered_each_on_its_own_in_their_order() {
    let server = Server::start(Holds::Llama);
    server.push("lora", "llama/lora", Value::Null).await.ok();
    let ask = |input: Value| json!({"adapter_id": "lora", "input": input, "parameters": {"max_new_tokens": 8}});
    let together = server.post("/v1/generate", ask(json!(["one", "a second text", "three"]))).await.ok();
    let mut prompt_tokens = 0;
    for (index, input) in ["one", "a second text", "three"].iter().enumerate() {
        let alone = server.post("/v1/generate", ask(json!(input))).await.ok();
        assert_eq!(together["outputs"][index]["text"], alone["outputs"][0]["text"]);
        assert_eq!(together["outputs"][index]["input"], index);
        prompt_tokens += alone["usage"]["prompt_tokens"].as_u64().unwrap();
    }
    assert_eq!(together["usage"]["prompt_tokens"], prompt_tokens);
    assert_eq!(
        (&together["adapter_id"], &together["adapter_version"], &together["base"]),
        (&json!("lora"), &json!(1), &json!("llama"))
    );
    assert!(together["id"].as_str().unwrap().starts_with("gen-"));
    assert!(together["outputs"][0].get("tokens").is_none(), "details were not asked for");
}

#[tokio::test]
async fn a_request_wins_over_its_adapter_and_the_adapter_over_the_defaults() {
    let server = Server::start(Holds::Llama);
    let metadata = json!({"generation": {"max_new_tokens": 3, "stop": ["zzz"]}});
    server.push("short", "llama/lora", metadata).await.ok();
    for (parameters, tokens) in
        [(Value::Null, 3), (json!({}), 3), (json!({"max_new_tokens": null}), 3), (json!({"max_new_tokens": 5}), 5)]
    {
        let mut body = json!({"adapter_id": "short", "input": "Привет, world!"});
        body["parameters"] = parameters;
        let answer = server.post("/v1/generate", body).await.ok();
        assert_eq!(answer["usage"]["completion_tokens"], tokens);
        assert_eq!(answer["outputs"][0]["finish_reason"], "length");
    }
}

#[tokio::test]
async fn beams_return_their_sequences_in_order() {
    let server = Server::start(Holds::Llama);
    for entry in golden("llama").iter().filter(|entry| entry["adapter"].is_null()) {
        for case in entry["beam"].as_array().unwrap().iter().take(2) {
            let mut parameters = json!({});
            for field in ["num_beams", "num_return_sequences", "length_penalty", "early_stopping", "max_new_tokens"] {
                parameters[field] = case[field].clone();
            }
            let answer =
                server.post("/v1/generate", json!({"input": case["input"], "parameters": parameters})).await.ok();
            let outputs = answer["outputs"].as_array().unwrap();
            let texts: Vec<&Value> = outputs.iter().map(|output| &output["text"]).collect();
            assert_eq!(texts, case["texts"].as_array().unwrap().iter().collect::<Vec<_>>());
            for (index, output) in outputs.iter().enumerate() {
                assert_eq!(output["sequence"], index);
            }
        }
    }
}

#[tokio::test]
async fn the_full_text_begins_with_the_prompt_without_virtual_tokens() {
    let server = Server::start(Holds::Llama);
    server.push("ru", "llama/ruprompts-text", Value::Null).await.ok();
    for adapter in [Value::Null, json!("ru")] {
        let mut body = json!({"adapter_id": adapter, "input": "What is it?", "parameters": {"max_new_tokens": 4, "do_sample": false}});
        let answer = server.post("/v1/generate", body.clone()).await.ok();
        let short = answer["outputs"][0]["text"].as_str().unwrap().to_owned();
        body["parameters"]["return_full_text"] = json!(true);
        let full = server.post("/v1/generate", body).await.ok();
        assert_eq!(full["outputs"][0]["text"], format!("What is it?{short}"));
    }
}

#[tokio::test]
async fn a_long_prompt_is_cut_only_when_truncate_says_so() {
    let server = Server::start(Holds::Llama);
    let long = "word ".repeat(400);
    let mut body = json!({"input": long, "parameters": {"max_new_tokens": 4}});
    server.post("/v1/generate", body.clone()).await.refused(
        422,
        "validation",
        &["max_new_tokens 4", "context of base llama is 256", "truncate"],
    );
    body["truncate"] = json!(20);
    assert_eq!(server.post("/v1/generate", body).await.ok()["usage"]["prompt_tokens"], 20);
}

#[tokio::test]
async fn seeds_repeat_and_sequences_of_a_sample_differ() {
    let server = Server::start(Holds::Llama);
    let parameters =
        json!({"max_new_tokens": 12, "do_sample": true, "temperature": 2.0, "seed": 7, "num_return_sequences": 3});
    let body = json!({"input": "Once upon a time", "parameters": parameters});
    let first = server.post("/v1/generate", body.clone()).await.ok();
    let again = server.post("/v1/generate", body).await.ok();
    assert_eq!(first["outputs"], again["outputs"]);
    let outputs = first["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 3);
    assert!(outputs[0]["text"] != outputs[1]["text"] || outputs[1]["text"] != outputs[2]["text"]);
}

#[tokio::test]
async fn top_logprobs_stand_beside_each_token() {
    let server = Server::start(Holds::Llama);
    let parameters = json!({"max_new_tokens": 3, "logprobs": 2, "ignore_eos": true});
    let answer =
        server.post("/v1/generate", json!({"input": "a b", "details": true, "parameters": parameters})).await.ok();
    let tokens = answer["outputs"][0]["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 3);
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 2);
        assert_eq!(top[0]["id"], token["id"], "greedy takes the likeliest");
        assert!(token["logprob"].as_f64().unwrap() <= 0.0);
    }
}

#[tokio::test]
async fn conversations_go_through_the_chat_template() {
    let server = Server::start(Holds::Several);
    let messages = json!([{"role": "user", "content": "What is it?"}]);
    let body = json!({"base": "llama", "messages": messages, "parameters": {"max_new_tokens": 2}});
    let answer = server.post("/v1/generate", body).await.ok();
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 5, "{answer}");
    let answer = server.post("/v1/generate", json!({"base": "gpt2", "messages": messages})).await;
    answer.refused(422, "validation", &["template"]);
}

#[tokio::test]
async fn fields_fill_a_prompt_format_and_wrong_ones_are_named() {
    let server = Server::start(Holds::Several);
    server.push("qa", "gpt2/ruprompts-fields", Value::Null).await.ok();
    let ask = |input: Value| json!({"adapter_id": "qa", "input": input, "parameters": {"max_new_tokens": 2}});
    server.post("/v1/generate", ask(json!({"context": "It rains.", "question": "Is it dry?"}))).await.ok();
    let answer = server.post("/v1/generate", ask(json!({"context": "It rains."}))).await;
    answer.refused(422, "validation", &["question"]);
    let answer = server.post("/v1/generate", ask(json!({"context": "a", "question": "b", "extra": "c"}))).await;
    answer.refused(422, "validation", &["extra"]);
    // Nothing that a user writes becomes a virtual token.
    server.post("/v1/generate", ask(json!({"context": "<|P|>", "question": "<|P|><|P|>"}))).await.ok();
}

#[tokio::test]
async fn the_wrong_route_and_the_wrong_base_are_422_and_say_where_to_go() {
    let server = Server::start(Holds::Several);
    server.push("labels", "llama/cls-lora", Value::Null).await.ok();
    server.push("lora", "llama/lora", Value::Null).await.ok();
    let answer = server.post("/v1/generate", json!({"adapter_id": "labels", "input": "a"})).await;
    answer.refused(422, "validation", &["labels", "/v1/classify"]);
    let answer = server.post("/v1/generate", json!({"adapter_id": "lora", "base": "gpt2", "input": "a"})).await;
    answer.refused(422, "validation", &["lora", "llama", "gpt2"]);
    server.post("/v1/generate", json!({"input": "a"})).await.refused(
        422,
        "validation",
        &["base is needed", "llama, gpt2, bert"],
    );
    let answer = server.post("/v1/generate", json!({"base": "bert", "input": "a"})).await;
    answer.refused(422, "validation", &["encoder", "/v1/classify"]);
}
