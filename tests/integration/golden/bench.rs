//! A tiny base on the engine, with the adapters made for it.

use std::path::PathBuf;
use std::sync::Arc;

use repertoire::adapter::{Adapter, Lease, LeaseCount, Metadata, Package, ReadLimits, SiteMap, TokenCounter};
use repertoire::device::GpuTarget;
use repertoire::engine::{Engine, EngineOptions};
use repertoire::model::BaseModel;
use repertoire::model::load::{GgufFile, Precision, WeightFiles, load_folder, load_gguf};
use repertoire::text::Tokenizer;

/// The folder of fixtures: here, where a binary may have been carried to, or where it was built.
pub fn fixtures() -> PathBuf {
    let root = std::env::current_dir().ok().filter(|here| here.join("tests/fixtures").is_dir());
    root.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).join("tests/fixtures")
}

/// Bytes for keys and values: more than all requests of a test need together.
pub const ROOM: usize = 16 << 20;

/// A running engine over a fixture base.
pub struct Bench {
    pub engine: Engine,
    pub sites: Arc<SiteMap>,
    base: String,
}

impl Bench {
    /// A base in a folder.
    pub fn folder(base: &str) -> Self {
        Self::with_room(base, ROOM)
    }

    /// The same with `kv_bytes` for keys and values.
    pub fn with_room(base: &str, kv_bytes: usize) -> Self {
        Self::on(base, kv_bytes, Precision::Stored, None)
    }

    /// The same in a precision, and on a GPU if there is a target.
    pub fn on(base: &str, kv_bytes: usize, precision: Precision, target: Option<GpuTarget>) -> Self {
        let tokenizer = Tokenizer::from_folder(&fixtures().join("bases").join(base)).unwrap();
        Self::start(base, Self::model(base, precision, target), tokenizer, kv_bytes)
    }

    /// The model alone.
    pub fn model(base: &str, precision: Precision, target: Option<GpuTarget>) -> Box<dyn BaseModel> {
        let folder = fixtures().join("bases").join(base);
        let mut shards: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        shards.sort();
        let files = match shards.is_empty() {
            true => WeightFiles::Pickle(folder.join("pytorch_model.bin")),
            false => WeightFiles::Safetensors(shards),
        };
        load_folder(base, vec![], &folder.join("config.json"), &files, precision, target).unwrap()
    }

    /// A base in a GGUF file.
    pub fn gguf(base: &str) -> Self {
        let path = fixtures().join("bases").join(format!("{base}.gguf"));
        let file = GgufFile::open(&path).unwrap();
        let tokenizer = Tokenizer::from_gguf(&file.content.metadata).unwrap();
        Self::start(base, load_gguf(base, vec![], file, Precision::Stored, None).unwrap(), tokenizer, ROOM)
    }

    /// A model on the engine.
    pub fn start(base: &str, model: Box<dyn BaseModel>, tokenizer: Tokenizer, kv_bytes: usize) -> Self {
        let options =
            EngineOptions { max_batch_tokens: 64, max_running: 32, max_waiting: 256, kv_bytes, turn: Arc::default() };
        let tokenizer = Arc::new(tokenizer);
        let mut sites = SiteMap::clone(model.sites());
        let counter = tokenizer.clone();
        sites.count_tokens =
            Some(TokenCounter(Arc::new(move |text| counter.encode(text, false).ok().map(|ids| ids.len()))));
        let engine = Engine::start(model, tokenizer, options).unwrap();
        Self { engine, sites: Arc::new(sites), base: base.into() }
    }

    /// An adapter made for the base.
    pub fn adapter(&self, name: &str, metadata: Metadata) -> Lease {
        Lease::new(Arc::new(read(&self.sites, &self.base, name, metadata)), LeaseCount::default())
    }
}

/// Reads an adapter made for a base as an upload would.
pub fn read(sites: &Arc<SiteMap>, base: &str, name: &str, metadata: Metadata) -> Adapter {
    let folder = fixtures().join("adapters").join(base).join(name);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap().into())
    });
    let package = Package { files: files.collect(), metadata };
    let adapter = Adapter::read(&package, std::slice::from_ref(sites), &ReadLimits { max_rank: 64 });
    adapter.unwrap_or_else(|e| panic!("{base} {name}: {e}"))
}
