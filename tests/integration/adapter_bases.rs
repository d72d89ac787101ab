//! What the adapter tests share: the fixtures' bases, and packages made by hand.

// Helpers of tests may unwrap as tests do; clippy's own exception knows `#[test]` functions only.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use half::f16;
use repertoire::adapter::{Adapter, AdapterError, Metadata, Package, ReadLimits, SiteMap};
use repertoire::model::BaseModel;
use repertoire::model::load::{Precision, WeightFiles, load_folder};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

pub const LIMITS: ReadLimits = ReadLimits { max_rank: 64 };

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A base of the fixtures.
pub fn model(name: &str) -> Box<dyn BaseModel> {
    let folder = fixtures().join("bases").join(name);
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
    load_folder(name, vec![], &folder.join("config.json"), &files, Precision::Stored, None).unwrap()
}

fn sites(name: &str) -> Arc<SiteMap> {
    model(name).sites().clone()
}

/// 2 layers, 32 hidden, 4 heads of 8 (2 for keys and values), tied.
pub static LLAMA: LazyLock<Arc<SiteMap>> = LazyLock::new(|| sites("llama"));
/// The same numbers, Conv1D, learned positions, tied.
pub static GPT2: LazyLock<Arc<SiteMap>> = LazyLock::new(|| sites("gpt2"));
/// The same numbers, an encoder.
pub static BERT: LazyLock<Arc<SiteMap>> = LazyLock::new(|| sites("bert"));

pub fn base(name: &str) -> Arc<SiteMap> {
    match name {
        "llama" => LLAMA.clone(),
        "gpt2" => GPT2.clone(),
        "bert" => BERT.clone(),
        other => sites(other),
    }
}

/// Reads a package where one base is served.
pub fn against(package: &Package, base: &Arc<SiteMap>) -> Result<Adapter, AdapterError> {
    Adapter::read(package, std::slice::from_ref(base), &LIMITS)
}

/// A copy of a base with something changed.
pub fn altered(map: &Arc<SiteMap>, change: impl FnOnce(&mut SiteMap)) -> Arc<SiteMap> {
    let mut map = SiteMap::clone(map);
    change(&mut map);
    Arc::new(map)
}

/// The adapter files of a folder of the fixtures.
pub fn package(base: &str, name: &str, metadata: Metadata) -> Package {
    let folder = fixtures().join("adapters").join(base).join(name);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read(path).unwrap().into())
    });
    Package::from_files(files.collect::<Vec<_>>(), metadata).unwrap()
}

/// A PEFT adapter made by hand: a configuration, and tensors by name.
#[derive(Clone)]
pub struct Made {
    pub config: Value,
    pub tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    pub metadata: Metadata,
}

impl Made {
    pub fn new(config: Value) -> Self {
        Self { config, tensors: BTreeMap::new(), metadata: Metadata::default() }
    }

    /// LoRA of rank 2 on both layers' `q_proj` of the Llama fixture.
    pub fn lora() -> Self {
        let config = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]});
        let mut made = Self::new(config);
        for layer in 0..2 {
            let module = format!("base_model.model.model.layers.{layer}.self_attn.q_proj");
            made = made
                .with(&format!("{module}.lora_A.weight"), &[2, 32])
                .with(&format!("{module}.lora_B.weight"), &[32, 2]);
        }
        made
    }

    /// The same on `query` of the BERT fixture, with a head of three labels.
    pub fn bert() -> Self {
        let config = json!({"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]});
        let mut made = Self::new(config);
        for layer in 0..2 {
            let module = format!("base_model.model.bert.encoder.layer.{layer}.attention.self.query");
            made = made
                .with(&format!("{module}.lora_A.weight"), &[2, 32])
                .with(&format!("{module}.lora_B.weight"), &[32, 2]);
        }
        made.with("base_model.model.classifier.weight", &[3, 32]).with("base_model.model.classifier.bias", &[3])
    }

    /// Prompt tuning of four rows on the Llama fixture.
    pub fn prompt() -> Self {
        let config = json!({"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4});
        Self::new(config).with("prompt_embeddings", &[4, 32])
    }

    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// An f32 tensor of small numbers that differ.
    pub fn with(self, name: &str, shape: &[usize]) -> Self {
        let count = shape.iter().product::<usize>();
        let numbers: Vec<f32> = (0..count).map(|i| ((i * 7 + name.len()) % 13) as f32 / 26.0 - 0.2).collect();
        self.with_numbers(name, shape, &numbers)
    }

    pub fn with_numbers(mut self, name: &str, shape: &[usize], numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.tensors.insert(name.into(), (Dtype::F32, shape.to_vec(), bytes));
        self
    }

    pub fn with_bytes(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        self.tensors.insert(name.into(), (dtype, shape.to_vec(), bytes));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        assert!(self.tensors.remove(name).is_some());
        self
    }

    /// All tensors in f16.
    pub fn halved(mut self) -> Self {
        for (dtype, _, bytes) in self.tensors.values_mut() {
            let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            *bytes = numbers.flat_map(|n| f16::from_f32(n).to_le_bytes()).collect();
            *dtype = Dtype::F16;
        }
        self
    }

    pub fn weights(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    pub fn package(&self) -> Package {
        let files = [
            ("adapter_config.json", self.config.to_string().into_bytes()),
            ("adapter_model.safetensors", self.weights()),
        ];
        Package::from_files(files.map(|(name, bytes)| (name, bytes.into())), self.metadata.clone()).unwrap()
    }

    pub fn read(&self, base: &Arc<SiteMap>) -> Result<Adapter, AdapterError> {
        against(&self.package(), base)
    }
}

/// Asserts a refusal: `Unsupported` where `unsupported`, else `Invalid`, with all of `words` in its message.
#[track_caller]
pub fn refused(result: Result<Adapter, AdapterError>, unsupported: bool, words: &[&str]) {
    let error = result.map(|adapter| adapter.kind).expect_err("should be refused");
    let right = match error {
        AdapterError::Unsupported(_) => unsupported,
        AdapterError::Invalid(_) => !unsupported,
        _ => false,
    };
    let message = error.to_string();
    assert!(right, "wrong kind of error: {error:?}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}
