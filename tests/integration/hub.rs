//! Sources become files: folders of every form, and downloads from a hub that fails in every way.

// Helpers of tests may unwrap as tests do; clippy's own exception knows `#[test]` functions only.
#![allow(clippy::unwrap_used)]

mod fake;

use std::fs;
use std::path::{Path, PathBuf};

use fake::{COMMIT, FakeHub, Faults};
use repertoire::hub::{HubError, HubOptions, ModelFiles, Weights, resolve, resolve_adapter};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn find(source: &str, options: &HubOptions) -> Result<ModelFiles, HubError> {
    resolve(source, options, &mut |_| {})
}

fn local(path: &Path) -> Result<ModelFiles, HubError> {
    find(path.to_str().unwrap(), &HubOptions::from_env())
}

fn message<T: std::fmt::Debug>(result: Result<T, HubError>) -> String {
    result.unwrap_err().to_string()
}

/// Where the cache keeps a large file.
fn blob(cache: &Path, content: &[u8]) -> PathBuf {
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(content));
    cache.join("models--org--repo/blobs").join(sha256)
}

/// 300 kB that are no run of one byte.
fn weights() -> Vec<u8> {
    (0_u32..75_000).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[test]
fn every_base_of_the_fixtures_is_found() {
    for (base, shards) in [("llama", 1), ("llama3", 2), ("gpt2st", 1), ("bert", 1)] {
        let files = local(&fixtures().join("bases").join(base)).unwrap();
        let Weights::Safetensors(found) = files.weights else { panic!("{base}: {:?}", files.weights) };
        assert_eq!(found.len(), shards, "{base}");
        assert!(files.config.unwrap().is_file());
    }
    assert!(matches!(local(&fixtures().join("bases/gpt2")).unwrap().weights, Weights::Pickle(_)));
    let gguf = local(&fixtures().join("bases/llama.gguf")).unwrap();
    assert!(matches!(gguf.weights, Weights::Gguf(_)) && gguf.config.is_none());
    let dummy = format!("dummy://{}", fixtures().join("bases/llama").display());
    assert_eq!(find(&dummy, &HubOptions::from_env()).unwrap().weights, Weights::Dummy);
}

#[test]
fn torchs_old_form_is_refused_with_the_command_that_converts_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    fs::write(folder.path().join("pytorch_model.bin"), b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.")
        .unwrap();
    let error = message(local(folder.path()));
    assert!(error.contains("zip form") && error.contains("python -c \"import torch;"), "{error}");
    fs::write(folder.path().join("pytorch_model.bin"), "PK").unwrap();
    assert!(message(local(folder.path())).contains("zip form"));
}

#[test]
fn what_a_folder_lacks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(message(local(folder.path())).contains("has no weights: model.safetensors"));
    fs::write(folder.path().join("model.safetensors.index.json"), r#"{"weight_map": {"a": "model-1.safetensors"}}"#)
        .unwrap();
    assert!(message(local(folder.path())).contains("has no model-1.safetensors"));
    fs::write(folder.path().join("model.safetensors.index.json"), r#"{"weight_map": {"a": "../x"}}"#).unwrap();
    assert!(message(local(folder.path())).contains("`../x` is not a file name"));
    fs::write(folder.path().join("model.safetensors"), "").unwrap();
    assert!(message(local(folder.path())).contains("has no config.json"));
    assert!(message(local(&folder.path().join("none"))).contains("there is no folder"));
    assert!(message(local(&folder.path().join("none.gguf"))).contains("there is no file"));
    let adapter = resolve_adapter(folder.path().to_str().unwrap(), u64::MAX, &HubOptions::from_env(), &mut |_| {});
    assert!(message(adapter).contains("adapter_config.json and adapter_model.safetensors, nor prompt.json"));
}

#[test]
fn a_base_is_downloaded_once_and_only_what_it_needs() {
    let (cache, large) = (tempfile::tempdir().unwrap(), weights());
    let files: [(&str, &[u8]); 8] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{ }"),
        ("vocab.json", b"{}"),
        ("README.md", b"#"),
        ("onnx/model.onnx", &large),
        ("model.safetensors", &large),
        ("pytorch_model.bin", &large),
        ("chat_template.jinja", b"{{ 1 }}"),
    ];
    let hub = FakeHub::start(&files, Faults::default());
    let mut options = hub.options(cache.path());
    options.token = Some("secret".into());
    let mut reports = Vec::new();
    let found =
        resolve("hf://org/repo", &options, &mut |progress| reports.push((progress.done, progress.total))).unwrap();
    let snapshot = cache.path().join("models--org--repo/snapshots").join(COMMIT);
    assert_eq!(found.folder, snapshot);
    assert_eq!(found.weights, Weights::Safetensors(vec![snapshot.join("model.safetensors")]));
    assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), large);
    assert_eq!(hub.downloads(), ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"]);
    assert!(reports.is_sorted() && reports.last() == Some(&(300_012, 300_012)), "{:?}", reports.last());
    assert!(hub.requests.lock().unwrap().iter().all(|request| request.token.as_deref() == Some("Bearer secret")));
    assert!(!format!("{options:?}").contains("secret"));

    let listed = hub.requests.lock().unwrap().len();
    find("hf://org/repo", &options).unwrap();
    assert_eq!(hub.requests.lock().unwrap().len(), listed + 1, "only the listing is asked for again");
    find(&format!("hf://org/repo@{COMMIT}"), &options).unwrap();
    assert_eq!(hub.requests.lock().unwrap().len(), listed + 1, "a commit never changes");
    options.offline = true;
    assert_eq!(find("hf://org/repo", &options).unwrap().folder, snapshot);
    assert!(message(find("hf://org/repo@other", &options)).contains("HF_HUB_OFFLINE is set"));
}

#[test]
fn shards_are_those_that_the_index_names() {
    let (cache, large) = (tempfile::tempdir().unwrap(), weights());
    let index =
        br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", &large),
        ("model-00002-of-00002.safetensors", &large[..1000]),
        ("consolidated.safetensors", &large),
    ];
    let hub = FakeHub::start(&files, Faults::default());
    let found = find("hf://org/repo", &hub.options(cache.path())).unwrap();
    let Weights::Safetensors(shards) = found.weights else { panic!() };
    assert_eq!(shards.len(), 2);
    assert_eq!(hub.downloads().iter().filter(|name| name.contains("consolidated")).count(), 0);
}

#[test]
fn an_interrupted_transfer_goes_on_where_it_broke_off() {
    let (cache, large) = (tempfile::tempdir().unwrap(), weights());
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", &large)];
    let hub = FakeHub::start(&files, Faults { cut: Some((100_000, 2)), ..Faults::default() });
    let found = find("hf://org/repo", &hub.options(cache.path())).unwrap();
    assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), large);
    assert_eq!(hub.ranges(), ["bytes=100000-", "bytes=200000-"]);
}

#[test]
fn a_later_start_takes_up_what_an_earlier_one_left() {
    let (cache, large) = (tempfile::tempdir().unwrap(), weights());
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", &large)];
    let hub = FakeHub::start(&files, Faults { cut: Some((0, 9)), ..Faults::default() });
    let options = hub.options(cache.path());
    let error = message(find("hf://org/repo", &options));
    assert!(error.contains("cannot be reached") && error.contains("hf download org/repo"), "{error}");
    assert_eq!(hub.downloads().len(), 1 + 3, "two retries without headway");

    let partial = blob(cache.path(), &large).with_extension("incomplete");
    fs::write(&partial, &large[..4321]).unwrap();
    hub.faults.lock().unwrap().cut = None;
    let found = find("hf://org/repo", &options).unwrap();
    assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), large);
    assert_eq!(hub.ranges(), ["bytes=4321-"]);
    assert!(!partial.exists());
}

#[test]
fn two_at_once_download_a_file_once() {
    let (cache, large) = (tempfile::tempdir().unwrap(), weights());
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", &large)];
    let hub = FakeHub::start(&files, Faults::default());
    let options = hub.options(cache.path());
    let found: Vec<ModelFiles> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..4).map(|_| scope.spawn(|| find("hf://org/repo", &options).unwrap())).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(found.iter().all(|files| fs::read(files.folder.join("model.safetensors")).unwrap() == large));
    assert_eq!(hub.downloads().iter().filter(|name| *name == "model.safetensors").count(), 1);
}

#[test]
fn a_server_without_ranges_sends_it_all_again() {
    let (cache, large) = (tempfile::tempdir().unwrap(), weights());
    let files: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", &large)];
    let hub = FakeHub::start(&files, Faults { cut: Some((50_000, 1)), ignores_range: true, ..Faults::default() });
    let found = find("hf://org/repo", &hub.options(cache.path())).unwrap();
    assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), large);
}

#[test]
fn a_damaged_file_is_fetched_anew() {
    let large = weights();
    let files: [(&str, &[u8]); 2] = [("model.safetensors", &large), ("config.json", b"{}")];
    // Damaged on the way, and by an earlier attempt.
    for (garbage, left) in [(Some("garbage"), 0), (None, 20_000)] {
        let cache = tempfile::tempdir().unwrap();
        let hub = FakeHub::start(&files, Faults::default());
        let partial = blob(cache.path(), &large).with_extension("incomplete");
        fs::create_dir_all(partial.parent().unwrap()).unwrap();
        fs::write(&partial, vec![7; left]).unwrap();
        hub.faults.lock().unwrap().garbage = garbage;
        let found = find("hf://org/repo", &hub.options(cache.path())).unwrap();
        assert_eq!(fs::read(found.folder.join("model.safetensors")).unwrap(), large);
    }
}

#[test]
fn a_file_with_another_checksum_is_refused() {
    let (cache, large) = (tempfile::tempdir().unwrap(), weights());
    let files: [(&str, &[u8]); 2] = [("model.safetensors", &large), ("config.json", b"{}")];
    let hub = FakeHub::start(&files, Faults { wrong_hash: true, ..Faults::default() });
    let error = message(find("hf://org/repo", &hub.options(cache.path())));
    assert!(error.contains("another sha-256 than the hub says"), "{error}");
    assert!(!cache.path().join("models--org--repo/snapshots").join(COMMIT).join("model.safetensors").exists());
}

#[test]
fn refusals_say_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let ask = |status, code, token: Option<&str>| {
        let hub = FakeHub::start(&[], Faults { refuses: Some((status, code)), ..Faults::default() });
        let mut options = hub.options(cache.path());
        options.token = token.map(str::to_owned);
        message(find("hf://org/repo@v1", &options))
    };
    assert!(ask(401, "GatedRepo", None).contains("org/repo is gated: ask for access at http://"));
    assert!(ask(403, "GatedRepo", Some("t")).contains("HF_TOKEN has no access"));
    assert!(ask(401, "RepoNotFound", None).contains("private or does not exist: check the name, or set HF_TOKEN"));
    assert!(
        ask(404, "RepoNotFound", Some("t")).contains("the hub knows no such repository; check the name in `org/repo`")
    );
    assert!(ask(404, "RevisionNotFound", Some("t")).contains("no such revision `v1`"));
    assert!(ask(503, "", None).contains("the hub answers 503; try again later"));
}

#[test]
fn without_a_network_the_last_download_is_taken() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(&[("config.json", b"{}"), ("model.safetensors", &weights())], Faults::default());
    let mut options = hub.options(cache.path());
    find("hf://org/repo", &options).unwrap();
    options.endpoint = "http://127.0.0.1:9".into();
    find("hf://org/repo", &options).unwrap();
    let error = message(find("hf://org/other", &options));
    assert!(error.contains("cannot be reached") && error.contains("HF_ENDPOINT"), "{error}");
}

#[test]
fn a_pickle_in_parts_is_refused_with_a_command_that_keeps_a_decoders_output_layer() {
    for (family, class) in [("llama", "AutoModelForCausalLM"), ("bert", "AutoModel")] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), format!("{{\"model_type\": \"{family}\"}}")).unwrap();
        fs::write(folder.path().join("pytorch_model.bin.index.json"), "{}").unwrap();
        let message = message(local(folder.path()));
        assert!(message.contains(&format!("import {class} as")), "{message}");
    }
}

#[test]
fn an_adapter_over_the_limit_is_not_even_begun() {
    let (cache, large) = (tempfile::tempdir().unwrap(), weights());
    let files: [(&str, &[u8]); 3] =
        [("adapter_config.json", b"{}"), ("adapter_model.safetensors", &large), ("optimizer.pt", &large)];
    let hub = FakeHub::start(&files, Faults::default());
    let (options, bytes) = (hub.options(cache.path()), large.len() as u64 + 2);
    let refused = message(resolve_adapter("hf://org/repo", bytes - 1, &options, &mut |_| {}));
    assert!(refused.contains(&bytes.to_string()) && refused.contains(&(bytes - 1).to_string()), "{refused}");
    assert!(hub.downloads().is_empty());
    resolve_adapter("hf://org/repo", bytes, &options, &mut |_| {}).unwrap();
}

#[test]
fn adapters_and_gguf_files_are_downloaded_too() {
    let (cache, large) = (tempfile::tempdir().unwrap(), weights());
    let files: [(&str, &[u8]); 4] = [
        ("adapter_config.json", b"{}"),
        ("adapter_model.safetensors", &large),
        ("optimizer.pt", &large),
        ("q4.gguf", &large[..500]),
    ];
    let hub = FakeHub::start(&files, Faults::default());
    let options = hub.options(cache.path());
    let folder = resolve_adapter("hf://org/repo", 1 << 20, &options, &mut |_| {}).unwrap();
    assert!(folder.join("adapter_model.safetensors").is_file());
    assert_eq!(hub.downloads(), ["adapter_config.json", "adapter_model.safetensors"]);
    let gguf = find("hf://org/repo/q4.gguf", &options).unwrap();
    assert_eq!(gguf.weights, Weights::Gguf(folder.join("q4.gguf")));
}
