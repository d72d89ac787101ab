//! Streamed answers.

use std::time::Duration;

use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::harness::{Answer, Holds, Server};

/// The JSON of every event; `[DONE]` must come last and is left out.
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("content-type").starts_with("text/event-stream"));
    let mut data: Vec<&str> = answer.text().lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{}", answer.text());
    data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test]
async fn the_pieces_of_a_stream_are_the_whole_answer() {
    let server = Server::start(Holds::Llama);
    server.push("lora", "llama/lora", Value::Null).await.ok();
    for (adapter, input) in
        [(json!("lora"), "Summary: the model answers in many ways."), (Value::Null, "Привет, world!")]
    {
        let mut body =
            json!({"adapter_id": adapter, "input": input, "details": true, "parameters": {"max_new_tokens": 12}});
        let whole = server.post("/v1/generate", body.clone()).await.ok();
        body["stream"] = json!(true);
        let events = events(&server.post("/v1/generate", body).await);
        let text: String = events.iter().map(|event| event["text"].as_str().unwrap()).collect();
        assert_eq!(text, whole["outputs"][0]["text"].as_str().unwrap());
        let tokens: Vec<Value> =
            events.iter().map(|event| event["token"].clone()).filter(|token| !token.is_null()).collect();
        assert_eq!(json!(tokens), whole["outputs"][0]["tokens"]);
        let (last, before) = events.split_last().unwrap();
        assert_eq!(last["finish_reason"], whole["outputs"][0]["finish_reason"]);
        assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
        assert!(before.iter().all(|event| event.get("finish_reason").is_none() && event.get("usage").is_none()));
    }
}

#[tokio::test]
async fn several_inputs_and_sequences_are_told_apart() {
    let server = Server::start(Holds::Llama);
    let parameters =
        json!({"max_new_tokens": 6, "do_sample": true, "seed": 1, "num_return_sequences": 2, "return_full_text": true});
    let mut body = json!({"input": ["one", "a second text"], "parameters": parameters});
    let whole = server.post("/v1/generate", body.clone()).await.ok();
    body["stream"] = json!(true);
    let events = events(&server.post("/v1/generate", body).await);
    for output in whole["outputs"].as_array().unwrap() {
        let own =
            events.iter().filter(|event| event["input"] == output["input"] && event["sequence"] == output["sequence"]);
        let text: String = own.map(|event| event["text"].as_str().unwrap()).collect();
        assert_eq!(text, output["text"].as_str().unwrap());
    }
    assert_eq!(events.iter().filter(|event| event.get("finish_reason").is_some()).count(), 4);
    assert_eq!(events.iter().filter(|event| event.get("usage").is_some()).count(), 1);
    assert_eq!(events.last().unwrap()["usage"]["prompt_tokens"], whole["usage"]["prompt_tokens"]);
}

#[tokio::test]
async fn a_stop_string_is_not_shown() {
    let server = Server::start(Holds::Llama);
    let whole =
        server.post("/v1/generate", json!({"input": "What is it?", "parameters": {"max_new_tokens": 12}})).await.ok();
    let text = whole["outputs"][0]["text"].as_str().unwrap().to_owned();
    let stop: String = text.chars().skip(3).take(2).collect();
    let parameters = json!({"max_new_tokens": 12, "stop": [stop]});
    let events = events(
        &server.post("/v1/generate", json!({"input": "What is it?", "stream": true, "parameters": parameters})).await,
    );
    let shown: String = events.iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert_eq!(shown, text[..text.find(&stop).unwrap()]);
    assert_eq!(events.last().unwrap()["finish_reason"], "stop");
}

#[tokio::test]
async fn a_failure_in_a_stream_is_an_error_event_and_the_end() {
    let server = Server::start(Holds::Slow);
    let parameters = json!({"max_new_tokens": 200, "ignore_eos": true});
    let answer = server
        .post("/v1/generate", json!({"input": "a", "stream": true, "timeout_ms": 1000, "parameters": parameters}))
        .await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    assert!(!text.contains("[DONE]"), "{text}");
    let (_, error) = text.split_once("event: error\ndata: ").unwrap_or_else(|| panic!("no error in {text}"));
    let error: Value = serde_json::from_str(error.lines().next().unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "timeout");
}

#[tokio::test]
async fn a_dropped_connection_frees_its_request() {
    let server = Server::start(Holds::Slow);
    let engine = server.state.bases.only().unwrap().engine.clone();
    let free = engine.stats().free_blocks;
    let parameters = json!({"max_new_tokens": 200, "ignore_eos": true});
    let request = Request::post("/v1/generate").header("content-type", "application/json");
    let body = json!({"input": "a", "stream": true, "parameters": parameters}).to_string();
    let mut response = server.open(request, body).await.into_body();
    response.frame().await.unwrap().unwrap();
    assert!(engine.stats().free_blocks < free, "it holds memory while it runs");
    drop(response);
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if engine.stats().free_blocks == free && engine.stats().running == 0 {
            return;
        }
    }
    panic!("{:?} after a second", engine.stats());
}

#[tokio::test]
async fn a_drained_engine_lets_streams_end() {
    let server = Server::start(Holds::Slow);
    let engine = server.state.bases.only().unwrap().engine.clone();
    let parameters = json!({"max_new_tokens": 10, "ignore_eos": true});
    let request = Request::post("/v1/generate").header("content-type", "application/json");
    let body = json!({"input": "a", "stream": true, "parameters": parameters}).to_string();
    let response = server.open(request, body).await.into_body();
    server.state.start_draining();
    tokio::join!(engine.drain(), async {
        let text = response.collect().await.unwrap().to_bytes();
        assert!(text.ends_with(b"data: [DONE]\n\n"), "{}", String::from_utf8_lossy(&text));
    });
}
