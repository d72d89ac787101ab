//! Bases, health, metrics, the document, request ids.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::Request;
use repertoire::http::{document, while_loading};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::harness::{Holds, Server};

#[tokio::test]
async fn bases_are_described() {
    let bases = Server::start(Holds::Several).get("/v1/bases").await.ok();
    assert_eq!((&bases["object"], &bases["has_more"]), (&json!("list"), &json!(false)));
    let data = bases["data"].as_array().unwrap();
    assert_eq!(data.iter().map(|base| base["name"].as_str().unwrap()).collect::<Vec<_>>(), ["llama", "gpt2", "bert"]);
    let llama = &data[0];
    for (field, value) in [
        ("family", json!("llama")),
        ("layers", json!(2)),
        ("hidden", json!(32)),
        ("vocab", json!(317)),
        ("context", json!(256)),
        ("device", json!("cpu")),
    ] {
        assert_eq!(llama[field], value, "{llama}");
    }
    assert!(llama["parameters"].as_u64().unwrap() > 10_000 && llama["bytes"].as_u64().unwrap() > 20_000, "{llama}");
    assert!(llama["dtype"].is_string() && llama["aliases"].is_array());
}

#[tokio::test]
async fn request_ids_come_back_or_are_made() {
    let server = Server::start(Holds::Llama);
    let given = server.send(Request::get("/health").header("x-request-id", "mine-1"), Body::empty()).await;
    assert_eq!(given.header("x-request-id"), "mine-1");
    let made = server.get("/v1/nothing").await;
    assert_eq!(made.header("x-request-id").len(), 36);
    for bad in ["two words", &"x".repeat(200)] {
        let answer = server.send(Request::get("/health").header("x-request-id", bad), Body::empty()).await;
        assert_eq!(answer.header("x-request-id").len(), 36);
    }
}

#[tokio::test]
async fn metrics_count_requests_and_tokens_by_adapter() {
    let server = Server::start(Holds::Llama);
    server.push("counted", "llama/lora", Value::Null).await.ok();
    for stream in [false, true] {
        let body = json!({"adapter_id": "counted", "input": "Привет, world!", "stream": stream, "parameters": {"max_new_tokens": 3}});
        assert_eq!(server.post("/v1/generate", body).await.status, 200);
    }
    server.post("/v1/generate", json!({"adapter_id": "invented-by-a-client", "input": "a"})).await;
    let metrics = server.get("/metrics").await;
    let line = |start: &str, parts: &[&str]| {
        let found =
            metrics.text().lines().find(|line| line.starts_with(start) && parts.iter().all(|part| line.contains(part)));
        found
            .unwrap_or_else(|| panic!("no {start} with {parts:?} in\n{}", metrics.text()))
            .rsplit(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let parts = ["route=\"/v1/generate\"", "status=\"200\"", "adapter=\"counted\"", "method=\"POST\""];
    assert_eq!(line("repertoire_requests_total", &parts), "2");
    assert_eq!(line("repertoire_tokens_total", &["adapter=\"counted\"", "kind=\"completion\""]), "6");
    line("repertoire_requests_total", &["status=\"404\"", "adapter=\"\""]);
    line("repertoire_first_token_seconds_count", &["base=\"llama\""]);
    line("repertoire_request_seconds_bucket", &["route=\"/v1/generate\""]);
    line("repertoire_engine_blocks", &["base=\"llama\""]);
    assert!(!metrics.text().contains("invented-by-a-client"));
}

#[tokio::test]
async fn the_document_describes_every_route_its_errors_and_its_fields() {
    let server = Server::start(Holds::Llama);
    let served = server.get("/openapi.json").await.ok();
    assert_eq!(served, serde_json::to_value(document()).unwrap());
    let paths: Vec<&str> = served["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    for path in [
        "/v1/generate",
        "/v1/classify",
        "/v1/adapters",
        "/v1/adapters/{id}",
        "/v1/adapters/{id}/versions",
        "/v1/adapters/{id}/rollback",
        "/v1/adapters/{id}/files/{name}",
        "/v1/adapters/{id}/pin",
        "/v1/bases",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
    ] {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    let responses = served["paths"]["/v1/generate"]["post"]["responses"].as_object().unwrap();
    for status in ["200", "400", "401", "403", "404", "413", "415", "422", "429", "500", "503", "504"] {
        assert!(responses.contains_key(status), "{status}");
    }
    // Every reference leads somewhere, and every field of a request is explained or shown by example.
    let text = served.to_string();
    for reference in text.split("\"$ref\":\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(served.pointer(pointer).is_some(), "{reference}");
    }
    let schemas = &served["components"]["schemas"];
    let parameters = schemas["RequestParameters"]["properties"].as_object().unwrap();
    assert_eq!(parameters.len(), 19, "{:?}", parameters.keys());
    for (name, field) in parameters {
        // What is a reference has its description beside it.
        let fields = std::iter::once(field).chain(field["oneOf"].as_array().into_iter().flatten());
        assert!(fields.into_iter().any(|field| field["description"].is_string()), "{name}: {field}");
    }
    for name in
        ["GenerateRequest", "ClassifyRequest", "AdapterInfo", "Metadata", "ErrorBody", "StreamEvent", "BaseInfo"]
    {
        assert!(schemas.get(name).is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_loading_server_is_alive_and_not_ready() {
    let loaded = Arc::new(OnceLock::new());
    let router = while_loading(loaded.clone());
    let status = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!((status("/health").await, status("/ready").await, status("/v1/bases").await), (200, 503, 503));
    let request = Request::get("/ready").header("x-request-id", "mine-1").body(Body::empty()).unwrap();
    assert_eq!(router.clone().oneshot(request).await.unwrap().headers()["x-request-id"], "mine-1");
    let server = Server::start(Holds::Llama);
    loaded.set(repertoire::http::router(server.state.clone())).unwrap();
    assert_eq!((status("/health").await, status("/ready").await, status("/v1/bases").await), (200, 200, 200));
}
