//! Keys: who may do and see what.

use std::convert::Infallible;
use std::io::Write;
use std::net::IpAddr;

use axum::body::Body;
use axum::http::{Method, Request};
use futures_util::stream;
use repertoire::adapter::Digest;
use repertoire::config::AuthConfig;
use repertoire::http::{Keys, check_listen};
use serde_json::{Value, json};

use super::harness::{Form, Holds, Server};

/// A server with three keys: `all`, `reader` (may read), `alice` (everything, but sees `alice-*` only).
fn server() -> Server {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let hash = |key: &str| Digest::of(key.as_bytes()).hex();
    writeln!(file, "[all]\nkey_sha256 = \"{}\"", hash("all")).unwrap();
    writeln!(file, "[reader]\nkey_sha256 = \"{}\"\nscopes = [\"read\"]", hash("reader")).unwrap();
    writeln!(file, "[alice]\nkey_sha256 = \"{}\"\nadapters = [\"alice-*\"]", hash("alice")).unwrap();
    Server::configured(Holds::Llama, |config| {
        config.auth = AuthConfig { anonymous: false, keys_file: file.path().display().to_string() };
    })
}

#[tokio::test]
async fn every_route_but_health_and_the_document_asks_for_a_key() {
    let server = server();
    let document = server.get("/openapi.json").await.ok();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let uri = path.replace("{id}", "a").replace("{name}", "b");
            let request = Request::builder().method(method.to_uppercase().as_str()).uri(&uri);
            let answer = server.send(request, Body::empty()).await;
            if ["/health", "/ready", "/openapi.json"].contains(&path.as_str()) {
                assert_eq!(answer.status, 200, "{path}");
            } else {
                answer.refused(401, "unauthorized", &["Bearer"]);
                assert_eq!(answer.header("www-authenticate"), "Bearer");
                asked += 1;
            }
        }
    }
    assert!(asked >= 14, "{asked}");
}

#[tokio::test]
async fn a_bad_key_is_401() {
    let server = server();
    for header in ["Bearer wrong", "Bearer ", "Basic all", "all", "Bearer"] {
        let request = Request::get("/v1/adapters").header("authorization", header);
        server.send(request, Body::empty()).await.refused(401, "unauthorized", &[]);
    }
    let request = Request::get("/v1/adapters").header("authorization", "bearer all");
    server.send(request, Body::empty()).await.ok();
}

#[tokio::test]
async fn a_key_without_the_scope_is_403() {
    let server = server();
    let reader = server.with_key("reader");
    reader.get("/v1/adapters").await.ok();
    reader.get("/metrics").await;
    reader.post("/v1/generate", json!({"input": "a"})).await.refused(403, "forbidden", &["reader", "generate"]);
    reader.post("/v1/classify", json!({"input": "a"})).await.refused(403, "forbidden", &["generate"]);
    reader.push("a", "llama/lora", Value::Null).await.refused(403, "forbidden", &["write"]);
    reader.delete("/v1/adapters/a").await.refused(403, "forbidden", &["write"]);
    server.with_key("alice").get("/metrics").await.refused(403, "forbidden", &[]);
}

#[tokio::test]
async fn a_body_is_not_read_before_the_key_may_send_it() {
    let reader = server().with_key("reader");
    for (method, path) in [
        (Method::POST, "/v1/generate"),
        (Method::POST, "/v1/classify"),
        (Method::POST, "/v1/adapters"),
        (Method::PATCH, "/v1/adapters/a"),
        (Method::POST, "/v1/adapters/a/rollback"),
    ] {
        let unread = stream::once(async { panic!("the body was read") as Result<Vec<u8>, Infallible> });
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        reader.send(request, Body::from_stream(unread)).await.refused(403, "forbidden", &["reader"]);
    }
}

#[tokio::test]
async fn what_a_key_does_not_see_is_404_for_it_everywhere() {
    let server = server();
    let (all, alice) = (server.with_key("all"), server.with_key("alice"));
    for id in ["alice-1", "bob-1", "bob-2", "bob-3"] {
        all.push(id, "llama/lora", Value::Null).await.ok();
    }
    alice.get("/v1/adapters/bob-1").await.refused(404, "adapter_not_found", &["bob-1"]);
    alice.get("/v1/adapters/bob-1/versions").await.refused(404, "adapter_not_found", &[]);
    alice.get("/v1/adapters/bob-1/files/adapter_config.json").await.refused(404, "adapter_not_found", &[]);
    alice.delete("/v1/adapters/bob-1").await.refused(404, "adapter_not_found", &[]);
    alice.post("/v1/generate", json!({"adapter_id": "bob-1", "input": "a"})).await.refused(
        404,
        "adapter_not_found",
        &[],
    );
    alice.post("/v1/classify", json!({"adapter_id": "bob-1", "input": "a"})).await.refused(
        404,
        "adapter_not_found",
        &[],
    );
    let form = Form::adapter("bob-1", "llama/dora", Value::Null);
    alice.send(form.request(), form.body()).await.refused(404, "adapter_not_found", &[]);
    // The words are those for what does not exist.
    let hidden = alice.get("/v1/adapters/bob-1").await.json()["error"]["message"].to_string();
    let missing = alice.get("/v1/adapters/alice-9").await.json()["error"]["message"].to_string();
    assert_eq!(hidden.replace("bob-1", "alice-9"), missing);

    let list = alice.get("/v1/adapters?limit=1").await.ok();
    assert_eq!(
        (list["data"].as_array().unwrap().len(), &list["data"][0]["id"], &list["has_more"]),
        (1, &json!("alice-1"), &json!(false))
    );
    alice.push("alice-2", "llama/ia3", Value::Null).await.ok();
    let answer = alice
        .post("/v1/generate", json!({"adapter_id": "alice-2", "input": "a", "parameters": {"max_new_tokens": 1}}))
        .await;
    answer.ok();
}

#[test]
fn without_keys_only_loopback_may_be_listened_on() {
    let keyed = AuthConfig::default();
    let open = AuthConfig { anonymous: true, ..AuthConfig::default() };
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    for loopback in ["127.0.0.1", "127.1.2.3", "::1"] {
        assert!(check_listen(address(loopback), &keyed, &Keys::default()).is_ok());
    }
    for other in ["0.0.0.0", "::", "192.168.0.1"] {
        let message = check_listen(address(other), &keyed, &Keys::default()).unwrap_err();
        assert!(
            message.contains(other) && message.contains("auth.keys_file") && message.contains("auth.anonymous=true"),
            "{message}"
        );
        assert!(check_listen(address(other), &open, &Keys::default()).is_ok());
    }
}

#[test]
fn a_keys_file_that_is_missing_or_empty_stops_the_start() {
    let load = |file: String| Keys::load(&AuthConfig { anonymous: false, keys_file: file }).unwrap_err().to_string();
    assert!(load("nowhere.toml".into()).contains("nowhere.toml"));
    let empty = tempfile::NamedTempFile::new().unwrap();
    assert!(load(empty.path().display().to_string()).contains("holds no keys"));
}
