//! A server in this process, and a client for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use candle_core::Result as TensorResult;
use http_body_util::BodyExt;
use repertoire::adapter::Adapter;
use repertoire::adapter::{AdapterRegistry, ReadLimits, RegistryOptions, SiteMap};
use repertoire::app;
use repertoire::config::{BaseConfig, Config};
use repertoire::engine::{Engine, EngineOptions};
use repertoire::http::{AppState, Base, BaseInfo, Bases, Keys, accept_adapter, router};
use repertoire::model::{BaseModel, Batch, BlockId, Called, KvShape, Outputs, Pass, Warm};
use repertoire::telemetry;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A base of the fixtures under a name of its own.
pub fn base_config(name: &str, folder: &str) -> BaseConfig {
    BaseConfig::new(name, fixtures().join("bases").join(folder).display().to_string())
}

/// The tiny Llama, made slow or broken.
struct Scripted {
    inner: Box<dyn BaseModel>,
    pause: Duration,
    fails: bool,
}

impl BaseModel for Scripted {
    fn sites(&self) -> &Arc<SiteMap> {
        self.inner.sites()
    }

    fn kv_shape(&self) -> Option<KvShape> {
        self.inner.kv_shape()
    }

    fn step_bytes(&self, tokens: usize, rows: usize) -> usize {
        self.inner.step_bytes(tokens, rows)
    }

    fn open_store(&mut self, blocks: usize) -> TensorResult<()> {
        self.inner.open_store(blocks)
    }

    fn warm_up(&mut self, tokens: usize, rows: usize) -> TensorResult<Option<Warm>> {
        self.inner.warm_up(tokens, rows)
    }

    fn draws(&self) -> bool {
        self.inner.draws()
    }

    fn call(&mut self, adapter: &Arc<Adapter>) -> TensorResult<Called> {
        self.inner.call(adapter)
    }

    fn copy_blocks(&mut self, copies: &[(BlockId, BlockId)]) -> TensorResult<()> {
        self.inner.copy_blocks(copies)
    }

    fn write_prefix(&mut self, adapter: &Arc<Adapter>, blocks: &[BlockId], from: usize) -> TensorResult<()> {
        self.inner.write_prefix(adapter, blocks, from)
    }

    fn follows(&self, adapter: Option<&Adapter>) -> bool {
        self.inner.follows(adapter)
    }

    fn advance(&mut self, _: &mut Pass) -> candle_core::Result<()> {
        candle_core::bail!("it learns nothing")
    }

    fn begin(&mut self, batch: Batch) -> TensorResult<()> {
        std::thread::sleep(self.pause);
        if self.fails {
            candle_core::bail!("the secret cause");
        }
        self.inner.begin(batch)
    }

    fn finish(&mut self) -> TensorResult<Outputs> {
        self.inner.finish()
    }
}

fn scripted(name: &str, pause: Duration, fails: bool, config: &Config) -> Base {
    let loaded = app::load_model(&base_config(name, "llama"), None).unwrap();
    let info = BaseInfo::new(loaded.model.sites(), "bf16", "cpu", 0, 0);
    let model = Box::new(Scripted { inner: loaded.model, pause, fails });
    let options = EngineOptions {
        max_batch_tokens: config.scheduler.max_batch_tokens,
        max_running: config.scheduler.max_running,
        max_waiting: config.scheduler.max_waiting,
        kv_bytes: 1 << 22,
        turn: Arc::default(),
    };
    let engine = Engine::start(model, Arc::new(loaded.tokenizer), options).unwrap();
    Base { info, engine, generation: loaded.generation }
}

/// Which bases a server has.
#[derive(Clone, Copy, PartialEq)]
pub enum Holds {
    /// `llama` alone.
    Llama,
    /// `llama`, `gpt2`, and `bert`.
    Several,
    /// `slow`: a step takes 20 ms.
    Slow,
    /// `broken`: every step fails.
    Broken,
}

pub struct Server {
    pub state: AppState,
    store: TempDir,
    router: Router,
    key: Option<String>,
}

impl Server {
    pub fn start(holds: Holds) -> Self {
        Self::configured(holds, |_| {})
    }

    pub fn configured(holds: Holds, change: impl FnOnce(&mut Config)) -> Self {
        let store = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.auth.anonymous = true;
        config.bases[0].device_memory = repertoire::config::DeviceMemory::Bytes(1 << 22);
        change(&mut config);
        let turn = Arc::default();
        let load = |name: &str| {
            let mut base = base_config(name, name);
            base.device_memory = config.bases[0].device_memory;
            app::load_base(&base, &config.scheduler, 1 << 28, &turn).unwrap()
        };
        let bases = match holds {
            Holds::Llama => vec![load("llama")],
            Holds::Several => vec![load("llama"), load("gpt2"), load("bert")],
            Holds::Slow => vec![scripted("slow", Duration::from_millis(20), false, &config)],
            Holds::Broken => vec![scripted("broken", Duration::ZERO, true, &config)],
        };
        Self::with(bases, config, store)
    }

    /// A server over bases of the fixtures, by folder.
    pub fn over(folders: &[&str]) -> Self {
        let mut config = Config::default();
        config.auth.anonymous = true;
        let turn = Arc::default();
        let load = |folder: &&str| {
            let mut base = base_config(folder, folder);
            base.device_memory = repertoire::config::DeviceMemory::Bytes(1 << 22);
            app::load_base(&base, &config.scheduler, 1 << 28, &turn).unwrap()
        };
        Self::with(folders.iter().map(load).collect(), config, tempfile::tempdir().unwrap())
    }

    fn with(bases: Vec<Base>, config: Config, store: TempDir) -> Self {
        let bases = Bases::new(bases);
        let options = RegistryOptions {
            store: store.path().to_owned(),
            host_bytes: config.adapters.host_bytes.0,
            keep_versions: config.adapters.keep_versions,
            limits: ReadLimits { max_rank: config.adapters.max_rank },
            accept: accept_adapter,
        };
        let sites =
            bases.iter().map(|base| app::sites_with_tokenizer(base.sites(), base.tokenizer().clone())).collect();
        let registry = Arc::new(AdapterRegistry::open(options, sites).unwrap());
        let keys = Keys::load(&config.auth).unwrap();
        let state = AppState::new(config, bases, registry, keys, telemetry::metrics());
        Self { router: router(state.clone()), state, store, key: None }
    }

    /// The same server, asked with a key.
    pub fn with_key(&self, key: &str) -> Self {
        let store = tempfile::tempdir().unwrap();
        Self { router: self.router.clone(), state: self.state.clone(), store, key: Some(key.to_owned()) }
    }

    /// The head of an answer, its body not yet read.
    pub async fn open(&self, request: axum::http::request::Builder, body: impl Into<Body>) -> Response<Body> {
        let request = match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        };
        self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap()
    }

    pub async fn send(&self, request: axum::http::request::Builder, body: impl Into<Body>) -> Answer {
        let (head, body) = self.open(request, body).await.into_parts();
        Answer { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path), Body::empty()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path), Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Request::post(path).header("content-type", "application/json"), body.to_string()).await
    }

    /// Puts an adapter of the fixtures into the store by hand.
    pub fn place(&self, id: &str, folder: &str) -> PathBuf {
        let (from, to) = (fixtures().join("adapters").join(folder), self.store.path().join(id));
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        to
    }

    /// Publishes an adapter of the fixtures.
    pub async fn push(&self, id: &str, folder: &str, metadata: Value) -> Answer {
        let form = Form::adapter(id, folder, metadata);
        self.send(form.request(), form.body()).await
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    /// The JSON of an answer that must be a success.
    pub fn ok(&self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text());
        self.json()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts an error's status, code and parts of its message.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str, parts: &[&str]) {
        assert_eq!(self.status, status, "{}", self.text());
        let error = self.json()["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        for field in ["message", "type", "code", "param"] {
            assert!(error.get(field).is_some(), "{field} is missing in {error}");
        }
        let message = error["message"].as_str().unwrap();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
}

/// A multipart form.
#[derive(Default)]
pub struct Form(Vec<u8>);

impl Form {
    /// An adapter's folder, as people upload it.
    pub fn adapter(id: &str, folder: &str, metadata: Value) -> Self {
        let mut form = Self::default().text("id", id);
        if !metadata.is_null() {
            form = form.text("metadata", &metadata.to_string());
        }
        let mut entries: Vec<PathBuf> = std::fs::read_dir(fixtures().join("adapters").join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        for path in entries {
            form = form.file(path.file_name().unwrap().to_str().unwrap(), &std::fs::read(&path).unwrap());
        }
        form
    }

    pub fn text(self, name: &str, text: &str) -> Self {
        self.part(&format!("name=\"{name}\""), text.as_bytes())
    }

    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.part(&format!("name=\"files\"; filename=\"{name}\""), content)
    }

    fn part(mut self, disposition: &str, content: &[u8]) -> Self {
        self.0.extend_from_slice(format!("--XX\r\ncontent-disposition: form-data; {disposition}\r\n\r\n").as_bytes());
        self.0.extend_from_slice(content);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    pub fn request(&self) -> axum::http::request::Builder {
        Request::post("/v1/adapters").header("content-type", "multipart/form-data; boundary=XX")
    }

    pub fn body(&self) -> Vec<u8> {
        [&self.0[..], b"--XX--\r\n"].concat()
    }
}
