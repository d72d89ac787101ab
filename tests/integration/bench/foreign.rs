//! Another maker's server, which speaks OpenAI's completions and writes down what it is asked.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::run::{bench, check_tokens};
use super::served::serve;

#[derive(Clone, Default)]
struct Foreign {
    /// Streamed requests, and when they came.
    asked: Arc<Mutex<Vec<(Instant, Value)>>>,
    /// Tokens are not counted in answers.
    silent: bool,
    /// How long an answer takes.
    pause: Duration,
}

impl Foreign {
    async fn start(&self) -> String {
        serve(Router::new().route("/v1/completions", routing::post(complete)).with_state(self.clone())).await
    }

    fn prompts(&self) -> Vec<String> {
        self.asked.lock().iter().map(|(_, body)| body["prompt"].as_str().unwrap().to_owned()).collect()
    }

    fn models(&self) -> Vec<String> {
        self.asked.lock().iter().map(|(_, body)| body["model"].as_str().unwrap().to_owned()).collect()
    }
}

/// A word is a token, and one more starts the text.
fn tokens(body: &Value) -> usize {
    body["prompt"].as_str().unwrap().split(' ').count() + 1
}

async fn complete(State(server): State<Foreign>, Json(body): Json<Value>) -> Response {
    let usage = json!({"prompt_tokens": tokens(&body), "completion_tokens": body["max_tokens"]});
    let usage = if server.silent { Value::Null } else { usage };
    if body["stream"] != true {
        return Json(json!({"choices": [{"text": "x"}], "usage": usage, "system_fingerprint": "?"})).into_response();
    }
    server.asked.lock().push((Instant::now(), body.clone()));
    tokio::time::sleep(server.pause).await;
    if body["model"] == "broken" {
        let error = json!({"error": {"message": "no such model", "code": 404, "type": "NotFound"}});
        return (StatusCode::NOT_FOUND, Json(error)).into_response();
    }
    let mut stream = String::from(": a comment\n\n");
    for _ in 0..body["max_tokens"].as_u64().unwrap() {
        stream += "data: {\"object\": \"text_completion\", \"choices\": [{\"index\": 0, \"text\": \" x\"}]}\n\n";
    }
    stream += "data: {\"choices\": [{\"text\": \"\", \"finish_reason\": \"length\"}]}\n\n";
    stream += &format!("data: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "usage": usage}));
    ([(header::CONTENT_TYPE, "text/event-stream")], stream).into_response()
}

/// `--api openai` with few tokens.
async fn ask(url: &str, more: &[&str]) -> super::run::Run {
    let load = ["--url", url, "--api", "openai", "--prompt-tokens", "24", "--output-tokens", "3"];
    bench(&[&load[..], more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters_are_models_in_turn_and_prompts_are_as_long_as_asked_and_never_the_same() {
    let server = Foreign::default();
    let url = server.start().await;
    let adapters = ["--adapters", "none,a,b", "--model", "base"];
    let run = ask(&url, &[&adapters[..], &["--concurrency", "1,5", "--requests", "30"]].concat()).await;
    assert_eq!(run.measured().len(), 2);
    run.measured().iter().for_each(|point| check_tokens(point, 3.0));
    // The warm-up has as many requests as there are clients.
    let prompts = server.prompts();
    assert_eq!((prompts.len(), prompts.iter().collect::<HashSet<_>>().len()), (66, 66));
    for (_, body) in server.asked.lock().iter() {
        assert_eq!((tokens(body), &body["max_tokens"], &body["ignore_eos"]), (24, &json!(3), &json!(true)));
    }
    assert_eq!(server.models()[1..5], ["base", "a", "b", "base"]);
    // Without a name for the base there is nothing to put into `model`.
    let nameless = ask(&url, &["--adapters", "none"]).await;
    assert!(!nameless.ok && nameless.table.contains("--model"), "{}", nameless.table);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_shared_when_asked_for_and_adapters_are_drawn_by_zipfs_law() {
    let server = Foreign::default();
    let url = server.start().await;
    let load = ["--concurrency", "4", "--requests", "300", "--warmup", "0", "--shared-prefix", "16", "--seed", "5"];
    ask(&url, &[&load[..], &["--adapters", "a-0..3", "--zipf", "1"]].concat()).await.measured();
    let starts: HashSet<String> =
        server.prompts().iter().map(|prompt| prompt.split(' ').take(15).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(starts.len(), 1);
    assert_eq!(server.prompts().iter().collect::<HashSet<_>>().len(), 300);
    let mut counts = BTreeMap::new();
    server.models().into_iter().for_each(|model| *counts.entry(model).or_insert(0_usize) += 1);
    // 1, 1/2, 1/3 and 1/4 of 300 / (25/12) = 144, give or take three deviations.
    let expected = [144.0, 72.0, 48.0, 36.0_f64];
    for (count, expected) in counts.values().zip(expected) {
        assert!((*count as f64 - expected).abs() < 3.0 * expected.sqrt(), "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_a_rate_come_at_that_rate_however_slow_the_answers_are() {
    let server = Foreign { pause: Duration::from_millis(300), ..Foreign::default() };
    let url = server.start().await;
    let load = ["--requests", "100", "--rate", "100", "--warmup", "0", "--adapters", "a", "--seed", "1"];
    let run = ask(&url, &load).await;
    let point = &run.measured()[0];
    let times: Vec<Instant> = server.asked.lock().iter().map(|(at, _)| *at).collect();
    let seconds = (*times.iter().max().unwrap() - times[0]).as_secs_f64();
    assert!((0.7..3.0).contains(&seconds), "100 requests at 100 per second took {seconds}");
    assert!(point["ttft_ms"]["p50"].as_f64().unwrap() >= 300.0, "{point}");
    // One at a time cannot keep up: the wait is part of the latency.
    let late =
        ask(&url, &["--requests", "5", "--rate", "100", "--concurrency", "1", "--warmup", "0", "--adapters", "a"]);
    let late = late.await;
    assert!(late.measured()[0]["ttft_ms"]["p99"].as_f64().unwrap() > 1200.0, "{}", late.table);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_counts_no_tokens_and_refuses_in_a_shape_of_its_own_is_measured_all_the_same() {
    let server = Foreign { silent: true, ..Foreign::default() };
    let url = server.start().await;
    let run = ask(&url, &["--adapters", "a,broken", "--concurrency", "2", "--requests", "10"]).await;
    assert!(run.ok && run.table.contains("does not count tokens"), "{}", run.table);
    assert!(run.table.contains("404") && run.table.contains("no such model"), "{}", run.table);
    assert_eq!(run.points[0]["errors"], 5);
    check_tokens(&run.points[0], 3.0);
}
