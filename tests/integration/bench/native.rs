//! Our own server under load.

use repertoire::http::router;
use serde_json::json;

use super::run::{bench, check_tokens};
use super::served::serve;
use crate::http::harness::{Holds, Server};

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_every_point_is_answered_in_full_whatever_its_adapter() {
    let server = Server::start(Holds::Llama);
    for (id, folder) in [("a-1", "llama/lora"), ("a-2", "llama/ia3"), ("soft", "llama/prompt"), ("kv", "llama/prefix")]
    {
        server.push(id, folder, serde_json::Value::Null).await.ok();
    }
    // What an adapter's author set must not change what is measured.
    let settings = json!({"generation": {"num_beams": 2, "stop": ["e"], "max_new_tokens": 3}});
    server.push("beams", "llama/rslora", settings).await.ok();
    // A prompt format makes prompts longer, by the server's own count.
    server.push("formatted", "llama/lora-all-linear", json!({"prompt_format": "Q: {text} A:"})).await.ok();
    let url = serve(router(server.state.clone())).await;
    let adapters = "formatted,none,a-1..2,soft,kv,beams";
    let run = bench(&[
        "--url",
        &url,
        "--adapters",
        adapters,
        "--concurrency",
        "1,4",
        "--requests",
        "14",
        "--prompt-tokens",
        "23",
        "--output-tokens",
        "5",
    ])
    .await;
    let points = run.measured();
    assert_eq!(points.iter().map(|point| &point["concurrency"]).collect::<Vec<_>>(), [1, 4]);
    for point in points {
        assert_eq!(point["adapters"], 6);
        check_tokens(point, 5.0);
        assert!(point["itl_ms"]["p50"].is_number());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_measured_too() {
    let server = Server::start(Holds::Several);
    server.push("three", "bert/lora", serde_json::Value::Null).await.ok();
    server.push("two", "llama/cls-lora", serde_json::Value::Null).await.ok();
    let url = serve(router(server.state.clone())).await;
    let load = ["--concurrency", "2", "--requests", "8", "--prompt-tokens", "20", "--task", "classify"];
    for adapter in ["three", "two"] {
        let run = bench(&[&["--url", &url, "--adapters", adapter], &load[..]].concat()).await;
        let point = &run.measured()[0];
        assert_eq!((&point["output_tokens_per_s"], &point["itl_ms"]["p50"]), (&json!(0.0), &json!(null)));
        assert!(point["ttft_ms"]["p50"].is_number());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_counted_and_shown_and_fail_the_run_only_when_nothing_else_came() {
    let server = Server::start(Holds::Llama);
    let url = serve(router(server.state.clone())).await;
    let load =
        ["--url", &url, "--concurrency", "2", "--requests", "9", "--prompt-tokens", "20", "--output-tokens", "2"];
    let some = bench(&[&load[..], &["--adapters", "none,missing,none"]].concat()).await;
    assert!(some.ok && some.table.contains("missing does not exist"), "{}", some.table);
    assert_eq!(some.points[0]["errors"], 3);
    check_tokens(&some.points[0], 2.0);
    // 20 + 400 tokens are over the base's context; calibration asks for one.
    let none = bench(&[&load[..8], &["--output-tokens", "400"]].concat()).await;
    assert!(!none.ok && none.table.contains("every request failed") && none.table.contains("420"), "{}", none.table);
    assert_eq!((&none.points[0]["errors"], &none.points[0]["ttft_ms"]["p50"]), (&json!(9), &json!(null)));
    let absent = bench(&["--url", "http://127.0.0.1:9"]).await;
    assert!(!absent.ok && absent.table.contains("repertoire serve"), "{}", absent.table);
}
