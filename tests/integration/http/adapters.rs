//! `/v1/adapters`.

use std::convert::Infallible;
use std::io::Write;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::stream;
use repertoire::config::{ByteSize, Config};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::harness::{Answer, Form, Holds, Server, fixtures};

fn etag(answer: &Answer) -> String {
    answer.header("etag").to_owned()
}

async fn push_if(server: &Server, header: &str, value: &str, folder: &str) -> Answer {
    let form = Form::adapter("a", folder, Value::Null);
    server.send(form.request().header(header, value), form.body()).await
}

#[tokio::test]
async fn an_adapter_is_published_shown_listed_and_deleted() {
    let server = Server::start(Holds::Llama);
    let published = server.push("a", "llama/lora", json!({"description": "first"})).await;
    assert_eq!(published.status, StatusCode::CREATED, "{}", published.text());
    assert_eq!(published.header("location"), "/v1/adapters/a");
    let info = published.json();
    assert_eq!(etag(&published), format!("\"{}\"", info["digest"].as_str().unwrap()));
    for (field, value) in [
        ("id", json!("a")),
        ("version", json!(1)),
        ("base", json!("llama")),
        ("kind", json!("lora")),
        ("task", json!("generate")),
        ("description", json!("first")),
    ] {
        assert_eq!(info[field], value, "{info}");
    }
    for field in ["digest", "labels", "rank", "parameters", "bytes", "residency", "pinned", "leases", "created_at"] {
        assert!(info.get(field).is_some_and(|value| !value.is_null()), "{field} is missing in {info}");
    }
    let shown = server.get("/v1/adapters/a").await;
    assert_eq!(shown.ok()["digest"], info["digest"]);
    assert_eq!(etag(&shown), etag(&published));
    server.get("/v1/adapters/a@1").await.ok();
    server.get(&format!("/v1/adapters/a@{}", info["digest"].as_str().unwrap())).await.ok();
    server.get("/v1/adapters/a@2").await.refused(404, "adapter_not_found", &["a@2"]);
    let list = server.get("/v1/adapters").await.ok();
    assert_eq!(
        (&list["object"], &list["has_more"], &list["data"][0]["id"]),
        (&json!("list"), &json!(false), &json!("a"))
    );
    assert_eq!(server.delete("/v1/adapters/a").await.status, StatusCode::NO_CONTENT);
    server.get("/v1/adapters/a").await.refused(404, "adapter_not_found", &[]);
}

#[tokio::test]
async fn the_same_content_is_200_and_other_content_a_new_version() {
    let server = Server::start(Holds::Llama);
    assert_eq!(server.push("a", "llama/lora", Value::Null).await.status, 201);
    let again = server.push("a", "llama/lora", Value::Null).await;
    assert_eq!((again.status, &again.json()["version"]), (StatusCode::OK, &json!(1)));
    let second = server.push("a", "llama/dora", Value::Null).await;
    assert_eq!((second.status, &second.json()["version"]), (StatusCode::CREATED, &json!(2)));
    assert_eq!(server.push("b", "llama/lora", Value::Null).await.status, 201);
    let versions = server.get("/v1/adapters/a/versions").await.ok();
    let numbers: Vec<&Value> = versions["data"].as_array().unwrap().iter().map(|info| &info["version"]).collect();
    assert_eq!(numbers, [&json!(2), &json!(1)]);

    let back = server.post("/v1/adapters/a/rollback", json!({"version": 1})).await.ok();
    assert_eq!((&back["version"], &back["kind"]), (&json!(1), &json!("lora")));
    server.post("/v1/adapters/a/rollback", json!({"version": 9})).await.refused(404, "adapter_not_found", &["9"]);
    let third = server.push("a", "llama/ia3", Value::Null).await;
    assert_eq!(third.json()["version"], 3);
}

#[tokio::test]
async fn conditions_that_do_not_hold_are_409() {
    let server = Server::start(Holds::Llama);
    let first = push_if(&server, "if-none-match", "*", "llama/lora").await;
    assert_eq!(first.status, 201, "{}", first.text());
    push_if(&server, "if-none-match", "*", "llama/dora").await.refused(409, "version_conflict", &["a"]);
    let second = push_if(&server, "if-match", &etag(&first), "llama/dora").await;
    assert_eq!(second.status, 201, "{}", second.text());
    push_if(&server, "if-match", &etag(&first), "llama/ia3").await.refused(409, "version_conflict", &["a"]);
    let both = format!("{}, {}", etag(&first), etag(&second));
    assert_eq!(push_if(&server, "if-match", &both, "llama/ia3").await.status, 201);
    push_if(&server, "if-match", "nonsense", "llama/lora").await.refused(422, "validation", &["ETag"]);
    let delete = |tag: String| Request::delete("/v1/adapters/a").header("if-match", tag);
    server.send(delete(etag(&first)), Body::empty()).await.refused(409, "version_conflict", &[]);
    let current = etag(&server.get("/v1/adapters/a").await);
    let cached = Request::get("/v1/adapters/a").header("if-none-match", &current);
    assert_eq!(server.send(cached, Body::empty()).await.status, StatusCode::NOT_MODIFIED);
    assert_eq!(server.send(delete(current), Body::empty()).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_rollback_takes_a_condition_and_conditions_may_stand_on_several_lines() {
    let server = Server::start(Holds::Llama);
    let first = server.push("a", "llama/lora", Value::Null).await;
    let second = server.push("a", "llama/dora", Value::Null).await;
    let back = || Request::post("/v1/adapters/a/rollback").header("content-type", "application/json");
    let body = json!({"version": 1}).to_string();
    let stale = server.send(back().header("if-match", etag(&first)), body.clone()).await;
    stale.refused(409, "version_conflict", &["a"]);
    let create = server.send(back().header("if-none-match", "*"), body.clone()).await;
    create.refused(422, "validation", &["If-Match"]);
    let both = back().header("if-match", etag(&first)).header("if-match", etag(&second));
    assert_eq!(server.send(both, body).await.ok()["version"], 1);
    let lines = Request::get("/v1/adapters/a").header("if-none-match", etag(&second));
    let lines = lines.header("if-none-match", format!("W/{}", etag(&first)));
    assert_eq!(server.send(lines, Body::empty()).await.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_pickle_placed_by_hand_is_refused_with_the_command_that_converts_it() {
    let server = Server::start(Holds::Llama);
    let folder = server.place("pickled", "llama/lora");
    std::fs::rename(folder.join("adapter_model.safetensors"), folder.join("adapter_model.bin")).unwrap();
    let answer = server.post("/v1/generate", json!({"adapter_id": "pickled", "input": "a"})).await;
    answer.refused(422, "adapter_unsupported", &["adapter_model.bin", "python -c"]);
    // PEFT prefers safetensors where a folder has both.
    let both = server.place("both", "llama/lora");
    std::fs::write(both.join("adapter_model.bin"), "no pickle").unwrap();
    server.get("/v1/adapters/both").await.ok();
}

#[tokio::test]
async fn patched_metadata_is_a_new_version() {
    let server = Server::start(Holds::Llama);
    let first = server.push("a", "llama/lora", json!({"description": "old"})).await;
    let patch =
        |body: Value| (Request::patch("/v1/adapters/a").header("content-type", "application/json"), body.to_string());
    let (request, body) = patch(json!({"description": "new", "generation": {"max_new_tokens": 2}}));
    let second = server.send(request, body).await;
    assert_eq!((&second.ok()["version"], &second.json()["description"]), (&json!(2), &json!("new")));
    assert_ne!(etag(&first), etag(&second));
    let answer = server.post("/v1/generate", json!({"adapter_id": "a", "input": "Привет, world!"})).await.ok();
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    let answer = server.post("/v1/generate", json!({"adapter_id": "a@1", "input": "Привет, world!"})).await.ok();
    assert_eq!(answer["adapter_version"], 1);
    let (request, body) = patch(json!({"description": null, "generation": null}));
    let cleared = server.send(request, body).await.ok();
    assert_eq!((&cleared["version"], &cleared["description"]), (&json!(3), &Value::Null));
    let answer = server.post("/v1/generate", json!({"adapter_id": "a", "input": "Привет, world!"})).await.ok();
    assert_ne!(answer["usage"]["completion_tokens"], 2, "the settings are gone");
    let (request, body) = patch(json!({"generation": {"temprature": 1}}));
    let answer = server.send(request, body).await;
    answer.refused(422, "validation", &["temprature"]);
    assert_eq!(answer.json()["error"]["param"], "generation.temprature");
    let (request, body) = patch(json!({"descriptoin": "x"}));
    server.send(request, body).await.refused(422, "validation", &["descriptoin"]);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = Server::start(Holds::Llama);
    for id in ["a", "b", "c", "d"] {
        server.push(id, "llama/lora", Value::Null).await.ok();
    }
    let ids = |page: &Value| {
        page["data"].as_array().unwrap().iter().map(|info| info["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = server.get("/v1/adapters?limit=3").await.ok();
    assert_eq!((ids(&first), &first["has_more"]), (vec!["a".into(), "b".into(), "c".into()], &json!(true)));
    let rest = server.get("/v1/adapters?limit=3&after=c").await.ok();
    assert_eq!((ids(&rest), &rest["has_more"]), (vec!["d".into()], &json!(false)));
    server.get("/v1/adapters?limit=0").await.refused(422, "validation", &["from 1 to 1000", "given 0"]);
    server.get("/v1/adapters?limit=x").await.refused(422, "validation", &["limit"]);
    server.get("/v1/adapters?page=2").await.refused(422, "validation", &["page"]);
}

#[tokio::test]
async fn archives_are_unpacked_and_files_come_back_as_they_were_sent() {
    let server = Server::start(Holds::Llama);
    let folder = fixtures().join("adapters/llama/lora");
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        archive.start_file(format!("folder/{name}"), zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(&std::fs::read(folder.join(name)).unwrap()).unwrap();
    }
    archive.start_file("folder/README.md", zip::write::SimpleFileOptions::default()).unwrap();
    let form = Form::default().text("id", "zipped").file("lora.zip", &archive.finish().unwrap().into_inner());
    let zipped = server.send(form.request(), form.body()).await.ok();
    let plain = server.push("plain", "llama/lora", Value::Null).await.ok();
    assert_eq!(zipped["digest"], plain["digest"]);
    let file = server.get("/v1/adapters/zipped@1/files/adapter_model.safetensors").await;
    assert_eq!(file.body, std::fs::read(folder.join("adapter_model.safetensors")).unwrap());
    assert!(file.header("content-disposition").contains("adapter_model.safetensors"));
    server.get("/v1/adapters/zipped/files/README.md").await.refused(404, "adapter_not_found", &[]);
    server.get("/v1/adapters/zipped/files/..%2F..%2Fsecret").await.refused(404, "adapter_not_found", &[]);
}

#[tokio::test]
async fn a_pinned_adapter_says_so() {
    let server = Server::start(Holds::Llama);
    server.push("a", "llama/lora", Value::Null).await.ok();
    let pinned = server.send(Request::put("/v1/adapters/a/pin"), Body::empty()).await.ok();
    assert_eq!((&pinned["pinned"], &pinned["residency"]), (&json!(true), &json!("host")));
    assert_eq!(server.delete("/v1/adapters/a/pin").await.ok()["pinned"], false);
}

#[rstest]
#[case::no_id(Form::default().file("adapter_config.json", b"{}"), 422, "validation", &["id"])]
#[case::no_files(Form::default().text("id", "a"), 422, "validation", &["files", "given none"])]
#[case::two_ids(Form::default().text("id", "a").text("id", "b"), 422, "validation", &["the part id", "once"])]
#[case::two_metadata(Form::default().text("id", "a").text("metadata", "{}").text("metadata", "{}"), 422, "validation", &["the part metadata", "once"])]
#[case::long_metadata(Form::default().text("id", "a").text("metadata", &" ".repeat(2 << 20)), 413, "too_large", &["metadata", "1048576"])]
#[case::bad_id(Form::adapter("a/b", "llama/lora", Value::Null), 422, "validation", &["a/b"])]
#[case::unknown_part(Form::default().text("id", "a").text("name", "b"), 422, "validation", &["\"name\""])]
#[case::metadata(Form::default().text("id", "a").text("metadata", "{\"tsak\": 1}"), 422, "validation", &["tsak"])]
#[case::metadata_json(Form::default().text("id", "a").text("metadata", "{"), 400, "malformed", &["metadata"])]
#[case::half(Form::default().text("id", "a").file("adapter_config.json", b"{}"), 422, "validation", &["adapter_model.safetensors"])]
#[case::archive_and_more(Form::default().text("id", "a").file("a.zip", b"x").file("README.md", b"x"), 422, "validation", &["a.zip", "alone"])]
#[case::no_archive(Form::default().text("id", "a").file("a.zip", b"x"), 422, "validation", &[])]
#[case::pickle(Form::default().text("id", "a").file("adapter_config.json", b"{}").file("adapter_model.bin", b"x"), 422, "adapter_unsupported", &["pickle"])]
#[case::wrong_labels(Form::adapter("a", "llama/cls-lora", json!({"labels": ["ONE"]})), 422, "validation", &["1", "3"])]
#[case::unknown_base(Form::adapter("a", "llama/lora", json!({"base": "none"})), 422, "validation", &["llama"])]
#[tokio::test]
async fn an_upload_that_cannot_be_published_says_why(
    #[case] form: Form,
    #[case] status: u16,
    #[case] code: &str,
    #[case] parts: &[&str],
) {
    let server = Server::start(Holds::Llama);
    server.send(form.request(), form.body()).await.refused(status, code, parts);
    assert_eq!(server.get("/v1/adapters").await.ok()["data"], json!([]));
}

#[tokio::test]
async fn sources_are_read_only_under_allowed_roots() {
    let closed = Server::start(Holds::Llama);
    let root = fixtures().join("adapters/llama");
    let from = |source: String| json!({"id": "a", "source": source});
    let inside = format!("file://{}/lora", root.display());
    closed.post("/v1/adapters", from(inside.clone())).await.refused(422, "validation", &["allowed_sources"]);
    let open = Server::configured(Holds::Llama, |config: &mut Config| {
        config.adapters.allowed_sources = vec![format!("file://{}", root.display())];
    });
    for outside in [
        format!("file://{}/../gpt2/lora", root.display()),
        "file:///etc".into(),
        "hf://org/repo".into(),
        "s3://b/p".into(),
    ] {
        open.post("/v1/adapters", from(outside)).await.refused(422, "validation", &["allowed_sources"]);
    }
    open.post("/v1/adapters", from("ftp://x".into())).await.refused(422, "validation", &["file://", "ftp://x"]);
    open.post("/v1/adapters", json!({"id": "a"})).await.refused(422, "validation", &["source"]);
    let answer = open.post("/v1/adapters", json!({"id": "a", "source": inside, "metadata": null})).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
    open.post("/v1/generate", json!({"adapter_id": "a", "input": "b", "parameters": {"max_new_tokens": 1}})).await.ok();
}

#[tokio::test]
async fn uploads_beyond_what_memory_is_set_aside_for_wait_for_others_to_end() {
    let server = Server::configured(Holds::Llama, |config| config.limits.body_bytes = ByteSize(1 << 20));
    let form = Form::adapter("a", "llama/lora", Value::Null);
    // Neither says how much it sends, so both may send the most: there is no room for a third.
    let endless = || Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
    let soon = Duration::from_millis(100);
    let mut first = Box::pin(server.send(form.request(), endless()));
    let mut second = Box::pin(server.send(form.request(), endless()));
    let mut third = Box::pin(server.send(form.request(), Body::from(form.body())));
    for upload in [&mut first, &mut second, &mut third] {
        assert!(timeout(soon, upload).await.is_err(), "it waits");
    }
    server.post("/v1/generate", json!({"input": "a", "parameters": {"max_new_tokens": 1}})).await.ok();
    drop(first);
    third.await.ok();
}

#[tokio::test]
async fn a_prompt_format_or_settings_that_no_request_could_use_are_refused_at_upload() {
    let server = Server::start(Holds::Llama);
    for (folder, metadata, word) in [
        ("llama/lora", json!({"prompt_format": "<P>{text}"}), "virtual tokens"),
        ("llama/prompt", json!({"prompt_format": "<P*3>{text}"}), "virtual tokens"),
        ("llama/lora", json!({"prompt_format": "{a"}), "prompt format"),
        ("llama/lora", json!({"generation": {"temperature": -1.0}}), "temperature"),
        ("llama/lora", json!({"generation": {"num_beams": 0}}), "num_beams"),
        ("llama/lora", json!({"generation": {"eos_token_id": vec![1; 65]}}), "eos_token_id"),
    ] {
        server.push("unusable", folder, metadata).await.refused(422, "validation", &[word]);
    }
    server.push("usable", "llama/lora", json!({"prompt_format": "{text}!"})).await.ok();
    let change = Request::patch("/v1/adapters/usable").header("content-type", "application/json");
    let changed = server.send(change, json!({"prompt_format": "<P>{text}"}).to_string()).await;
    changed.refused(422, "validation", &["virtual tokens"]);
}

#[tokio::test]
async fn if_match_of_anything_on_a_free_name_is_a_conflict() {
    let server = Server::start(Holds::Llama);
    let form = Form::adapter("free", "llama/lora", Value::Null);
    let answer = server.send(form.request().header("if-match", "*"), form.body()).await;
    answer.refused(409, "version_conflict", &["free"]);
}

#[tokio::test]
async fn every_list_comes_in_pages() {
    let server = Server::start(Holds::Several);
    server.push("paged", "llama/lora", Value::Null).await.ok();
    server.push("paged", "llama/ia3", Value::Null).await.ok();
    for (path, key, all) in
        [("/v1/adapters/paged/versions", "version", ["2", "1"]), ("/v1/bases", "name", ["llama", "gpt2"])]
    {
        let first = server.get(&format!("{path}?limit=1")).await.ok();
        let shown = |list: &Value| list["data"][0][key].to_string().trim_matches('"').to_owned();
        assert_eq!((shown(&first), first["has_more"].clone()), (all[0].to_owned(), json!(true)), "{path}");
        let next = server.get(&format!("{path}?limit=1&after={}", all[0])).await.ok();
        assert_eq!(shown(&next), all[1], "{path}");
        server.get(&format!("{path}?after=nobody")).await.refused(422, "validation", &["after", "nobody"]);
    }
}

#[tokio::test]
async fn an_id_that_is_not_text_is_400_in_the_usual_shape() {
    Server::start(Holds::Llama).get("/v1/adapters/b%ff").await.refused(400, "malformed", &["UTF-8"]);
}
