//! Every status of the contract, in one shape.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use futures_util::StreamExt;
use repertoire::config::{ByteSize, Config};
use rstest::rstest;
use serde_json::{Value, json};

use super::harness::{Form, Holds, Server};

#[tokio::test]
async fn malformed_bodies_are_400() {
    let server = Server::start(Holds::Llama);
    for body in ["", "{", "[1,", "{\"input\": \"a\"} x"] {
        for path in ["/v1/generate", "/v1/classify", "/v1/adapters"] {
            let request = Request::post(path).header("content-type", "application/json");
            server.send(request, body).await.refused(400, "malformed", &["JSON"]);
        }
    }
    let form = Form::default().text("id", "a");
    let mut cut = form.body();
    cut.truncate(cut.len() - 20);
    server.send(form.request(), cut).await.refused(400, "malformed", &["multipart"]);
    let request = Request::post("/v1/adapters").header("content-type", "multipart/form-data");
    server.send(request, "x").await.refused(400, "malformed", &["oundary"]);
}

#[tokio::test]
async fn unknown_routes_are_404_and_wrong_methods_405() {
    let server = Server::start(Holds::Llama);
    server.get("/v1/nothing").await.refused(404, "not_found", &["/v1/nothing", "/openapi.json"]);
    server.get("/v1/generate").await.refused(405, "method_not_allowed", &["GET", "/v1/generate"]);
    let request = Request::builder().method(Method::PUT).uri("/v1/adapters");
    server.send(request, Body::empty()).await.refused(405, "method_not_allowed", &["PUT"]);
}

#[tokio::test]
async fn unknown_adapters_and_bases_are_404() {
    let server = Server::start(Holds::Several);
    for id in ["nobody", "nobody@3", "nobody@ckpt-10"] {
        let answer = server.post("/v1/generate", json!({"adapter_id": id, "input": "a"})).await;
        answer.refused(404, "adapter_not_found", &["nobody"]);
        let answer = server.post("/v1/classify", json!({"adapter_id": id, "input": "a"})).await;
        answer.refused(404, "adapter_not_found", &["nobody"]);
        server.get(&format!("/v1/adapters/{id}")).await.refused(404, "adapter_not_found", &["nobody"]);
    }
    for path in ["/versions", "/files/adapter_config.json"] {
        server.get(&format!("/v1/adapters/nobody{path}")).await.refused(404, "adapter_not_found", &[]);
    }
    server.delete("/v1/adapters/nobody").await.refused(404, "adapter_not_found", &[]);
    server.delete("/v1/adapters/nobody/pin").await.refused(404, "adapter_not_found", &[]);
    let answer = server.post("/v1/adapters/nobody/rollback", json!({"version": 1})).await;
    answer.refused(404, "adapter_not_found", &[]);
    let answer = server.post("/v1/generate", json!({"base": "none", "input": "a"})).await;
    answer.refused(404, "base_not_found", &["none", "llama", "bert"]);
}

#[tokio::test]
async fn other_content_types_are_415() {
    let server = Server::start(Holds::Llama);
    for path in ["/v1/generate", "/v1/classify", "/v1/adapters"] {
        for content_type in ["text/plain", "application/x-www-form-urlencoded", "nonsense"] {
            let answer = server.send(Request::post(path).header("content-type", content_type), "{}").await;
            answer.refused(415, "unsupported_media_type", &["application/json"]);
        }
        server.send(Request::post(path), "{}").await.refused(415, "unsupported_media_type", &[]);
    }
    let request = Request::post("/v1/classify").header("content-type", "application/json; charset=utf-8");
    server.send(request, "{").await.refused(400, "malformed", &[]);
}

#[tokio::test]
async fn bodies_over_the_limit_are_413() {
    let server = Server::configured(Holds::Llama, |config: &mut Config| config.limits.body_bytes = ByteSize(4096));
    let answer = server.post("/v1/generate", json!({"input": "a".repeat(5000)})).await;
    answer.refused(413, "too_large", &["limits.body_bytes"]);
    let form = Form::default().text("id", "a").file("adapter_model.safetensors", &[0; 5000]);
    server.send(form.request(), form.body()).await.refused(413, "too_large", &["limits.body_bytes"]);
}

#[tokio::test]
async fn json_ends_where_no_real_request_reaches() {
    let server = Server::start(Holds::Llama);
    // A client that does not say how much it sends: it is cut off, long before limits.body_bytes.
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let chunks = futures_util::stream::repeat_with(move || {
        counted.fetch_add(1 << 20, Ordering::Relaxed);
        Ok::<_, std::convert::Infallible>(vec![b' '; 1 << 20])
    });
    let request = Request::post("/v1/generate").header("content-type", "application/json");
    let answer = server.send(request, Body::from_stream(chunks.take(200))).await;
    answer.refused(413, "too_large", &["33554432"]);
    assert!(sent.load(Ordering::Relaxed) < 40 << 20);
}

#[tokio::test]
async fn archives_that_unpack_over_the_limit_are_413() {
    let server = Server::configured(Holds::Llama, |config: &mut Config| config.limits.body_bytes = ByteSize(100_000));
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file("adapter_model.safetensors", zip::write::SimpleFileOptions::default()).unwrap();
    archive.write_all(&vec![0; 1_000_000]).unwrap();
    let form = Form::default().text("id", "bomb").file("bomb.zip", &archive.finish().unwrap().into_inner());
    server.send(form.request(), form.body()).await.refused(413, "too_large", &[]);
}

#[rstest]
#[case::unknown_field(json!({"input": "a", "inptu": 1}), "inptu", &["unknown field"])]
#[case::unknown_parameter(json!({"input": "a", "parameters": {"temprature": 1}}), "parameters.temprature", &["unknown field"])]
#[case::wrong_type(json!({"input": "a", "parameters": {"max_new_tokens": "many"}}), "parameters.max_new_tokens", &["many"])]
#[case::negative(json!({"input": "a", "parameters": {"top_k": -1}}), "parameters.top_k", &["-1"])]
#[case::no_input(json!({}), "input", &["neither"])]
#[case::both(json!({"input": "a", "messages": []}), "input", &["both"])]
#[case::number_input(json!({"input": 5}), "input", &["a number"])]
#[case::nested_input(json!({"input": ["a", ["b"]]}), "input", &["item 1", "a list"])]
#[case::field_value(json!({"input": {"a": 1}}), "input", &["\"a\"", "a number"])]
#[case::no_texts(json!({"input": []}), "input", &["at least one"])]
#[case::fields_without_format(json!({"input": {"a": "b"}}), "input", &["no prompt format", "a"])]
#[case::bad_id(json!({"input": "a", "adapter_id": "../x"}), "adapter_id", &["../x", "[A-Za-z0-9]"])]
#[case::bad_reference(json!({"input": "a", "adapter_id": "x@latest"}), "adapter_id", &["x@latest", "name@<number>"])]
#[case::no_new_tokens(json!({"input": "a", "parameters": {"max_new_tokens": 0}}), "parameters.max_new_tokens", &["at least 1", "given 0"])]
#[case::cold(json!({"input": "a", "parameters": {"do_sample": true, "temperature": 0}}), "parameters.temperature", &["over 0", "given 0", "do_sample"])]
#[case::top_p(json!({"input": "a", "parameters": {"top_p": 1.5}}), "parameters.top_p", &["up to 1", "given 1.5"])]
#[case::top_p_zero(json!({"input": "a", "parameters": {"do_sample": true, "top_p": 0}}), "parameters.top_p", &["over 0", "given 0"])]
#[case::min_p(json!({"input": "a", "parameters": {"min_p": -0.5}}), "parameters.min_p", &["from 0 to 1", "given -0.5"])]
#[case::repetition(json!({"input": "a", "parameters": {"repetition_penalty": 0}}), "parameters.repetition_penalty", &["over 0", "given 0"])]
#[case::frequency(json!({"input": "a", "parameters": {"frequency_penalty": 3}}), "parameters.frequency_penalty", &["from -2 to 2", "given 3"])]
#[case::presence(json!({"input": "a", "parameters": {"presence_penalty": -3}}), "parameters.presence_penalty", &["from -2 to 2", "given -3"])]
#[case::beams(json!({"input": "a", "parameters": {"num_beams": 1000}}), "parameters.num_beams", &["from 1 to 64", "given 1000"])]
#[case::no_beams(json!({"input": "a", "parameters": {"num_beams": 0}}), "parameters.num_beams", &["from 1 to 64", "given 0"])]
#[case::greedy_twice(json!({"input": "a", "parameters": {"num_return_sequences": 2}}), "parameters.num_return_sequences", &["do_sample", "given 2"])]
#[case::more_than_beams(json!({"input": "a", "parameters": {"num_beams": 2, "num_return_sequences": 3}}), "parameters.num_return_sequences", &["num_beams, which is 2", "given 3"])]
#[case::beams_in_a_stream(json!({"input": "a", "stream": true, "parameters": {"num_beams": 2}}), "parameters.num_beams", &["stream", "given 2"])]
#[case::early_stopping(json!({"input": "a", "parameters": {"early_stopping": "soon"}}), "parameters.early_stopping", &["never", "soon"])]
#[case::logprobs(json!({"input": "a", "parameters": {"logprobs": 21}}), "parameters.logprobs", &["from 0 to 20", "given 21"])]
#[case::stops(json!({"input": "a", "parameters": {"stop": vec!["x"; 17]}}), "parameters.stop", &["at most 16", "given 17"])]
#[case::empty_stop(json!({"input": "a", "parameters": {"stop": [""]}}), "parameters.stop", &["1 to 1024 bytes", "given one of 0"])]
#[case::truncate(json!({"input": "a", "truncate": 0}), "truncate", &["at least 1", "given 0"])]
#[case::priority(json!({"input": "a", "priority": 1000}), "priority", &["from -100 to 100", "given 1000"])]
#[case::timeout(json!({"input": "a", "timeout_ms": 0}), "timeout_ms", &["from 1 to", "given 0"])]
#[case::too_long(json!({"input": "a", "parameters": {"max_new_tokens": 256}}), "input", &["1 tokens", "max_new_tokens 256", "257", "context of base llama is 256"])]
#[case::null_only(json!({"input": null}), "input", &["neither"])]
#[case::no_messages(json!({"messages": []}), "messages", &["at least one"])]
#[case::message_field(json!({"messages": [{"role": "user", "content": "a", "name": "b"}]}), "messages[0].name", &["unknown field"])]
#[tokio::test]
async fn what_cannot_be_generated_is_422_and_says_limit_and_value(
    #[case] body: Value,
    #[case] param: &str,
    #[case] parts: &[&str],
) {
    let answer = Server::start(Holds::Llama).post("/v1/generate", body).await;
    answer.refused(422, "validation", parts);
    assert_eq!(answer.json()["error"]["param"], param, "{}", answer.text());
}

#[tokio::test]
async fn an_empty_prompt_and_too_many_inputs_are_422() {
    let server = Server::configured(Holds::Llama, |config: &mut Config| config.limits.inputs = 2);
    server.post("/v1/generate", json!({"input": ""})).await.refused(422, "validation", &["at least one token"]);
    let answer = server.post("/v1/generate", json!({"input": ["a", "b", "c"]})).await;
    answer.refused(422, "validation", &["at most 2", "given 3"]);
}

#[tokio::test]
async fn a_full_queue_is_429_with_a_time_to_try_again() {
    let server = Server::configured(Holds::Slow, |config: &mut Config| {
        config.scheduler.max_running = 1;
        config.scheduler.max_waiting = 1;
    });
    let never = server.post("/v1/generate", json!({"input": vec!["a"; 3]})).await;
    never.refused(422, "validation", &["at most 2", "scheduler.max_waiting", "given 3"]);
    let ask = || server.post("/v1/generate", json!({"input": vec!["a"; 2], "parameters": {"max_new_tokens": 200}}));
    let engine = &server.state.bases.iter().next().unwrap().engine;
    let full = async {
        while engine.stats().waiting == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    // One runs and one waits, for as long as the first request is there.
    let answer = tokio::select! {
        first = ask() => panic!("it ended: {}", first.text()),
        answer = async { full.await; ask().await } => answer,
    };
    answer.refused(429, "overloaded", &["the limit is 1"]);
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
}

#[tokio::test]
async fn what_fails_inside_is_500_without_internals() {
    let server = Server::start(Holds::Broken);
    let answer = server.post("/v1/generate", json!({"input": "a"})).await;
    answer.refused(500, "internal", &["x-request-id"]);
    assert!(!answer.text().contains("secret"), "{}", answer.text());
}

#[tokio::test]
async fn a_timeout_is_504() {
    let server = Server::start(Holds::Slow);
    let body = json!({"input": "a", "timeout_ms": 50, "parameters": {"max_new_tokens": 200, "ignore_eos": true}});
    server.post("/v1/generate", body).await.refused(504, "timeout", &["timeout_ms"]);
}

#[tokio::test]
async fn a_draining_server_answers_503_for_new_work_and_lets_one_look() {
    let server = Server::start(Holds::Llama);
    server.get("/ready").await.ok();
    server.state.start_draining();
    for path in ["/v1/generate", "/v1/classify", "/v1/adapters"] {
        server.post(path, json!({"input": "a"})).await.refused(503, "draining", &[]);
    }
    server.get("/ready").await.refused(503, "draining", &[]);
    server.get("/health").await.ok();
    server.get("/v1/bases").await.ok();
}
