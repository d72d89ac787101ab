//! An adapter as it is uploaded and stored: files and metadata.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::archive::member;
use super::{AdapterError, Digest, ProblemType};

/// PEFT's configuration.
pub(super) const CONFIG: &str = "adapter_config.json";
/// PEFT's weights.
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's weights as a pickle, known only to be refused.
pub(super) const PICKLED: &str = "adapter_model.bin";
/// ruprompts' template.
pub(super) const PROMPT: &str = "prompt.json";
/// ruprompts' tensor.
pub(super) const PROVIDER: &str = "prompt_provider.bin";

/// The files that adapters are read from.
pub(super) const FILES: [&str; 4] = [CONFIG, WEIGHTS, PROMPT, PROVIDER];

/// Whether a file of this name says what an adapter is; README.md, optimizer states and tokenizers do not.
pub(super) fn is_adapter_file(name: &str) -> bool {
    FILES.contains(&name) || name == PICKLED
}

/// The files that matter, by name, and what the client said of them.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// File name (no folders) to content.
    pub files: BTreeMap<String, Bytes>,
    pub metadata: Metadata,
}

impl Package {
    /// The adapter among named files; others are left out. Names may stand in one folder (`adapter/prompt.json`).
    pub fn from_files<N: AsRef<str>>(
        files: impl IntoIterator<Item = (N, Bytes)>,
        metadata: Metadata,
    ) -> Result<Self, AdapterError> {
        let mut package = Self { files: BTreeMap::new(), metadata };
        let mut ignored = Vec::new();
        for (path, content) in files {
            let name = member(path.as_ref())?.1;
            if !is_adapter_file(name) {
                ignored.push(name.to_owned());
            } else if package.files.insert(name.to_owned(), content).is_some() {
                return Err(AdapterError::invalid(format!("{name} is given twice")));
            }
        }
        package.complete(&ignored)?;
        // PEFT prefers safetensors where a folder has both.
        package.files.remove(PICKLED);
        Ok(package)
    }

    /// Refuses a package that lacks a file, or holds both kinds of adapter.
    pub(super) fn check_complete(&self) -> Result<(), AdapterError> {
        self.complete(&[])
    }

    fn complete(&self, ignored: &[String]) -> Result<(), AdapterError> {
        let has = |name: &str| self.files.contains_key(name);
        let given = || {
            let names: Vec<&str> = self.files.keys().chain(ignored).map(String::as_str).collect();
            if names.is_empty() { "none".into() } else { super::tensors::few(&names) }
        };
        let missing = |name: &str| Err(AdapterError::invalid(format!("{name} is missing; files given: {}", given())));
        let peft = has(CONFIG) || has(WEIGHTS) || has(PICKLED);
        match (peft, has(PROMPT) || has(PROVIDER)) {
            (true, true) => Err(AdapterError::invalid(format!(
                "the files are those of two adapters, PEFT's and ruprompts'; files given: {}",
                given()
            ))),
            (false, true) if !has(PROMPT) => missing(PROMPT),
            (false, true) if !has(PROVIDER) => missing(PROVIDER),
            (false, true) => Ok(()),
            (_, false) if !has(CONFIG) => missing(CONFIG),
            (_, false) if has(WEIGHTS) => Ok(()),
            (_, false) if has(PICKLED) => Err(AdapterError::unsupported(format!(
                "{PICKLED} is a pickle, which can run code: convert it with \
                 python -c \"import torch, safetensors.torch as s; \
                 s.save_file({{k: v.contiguous() for k, v in torch.load('{PICKLED}', weights_only=True).items()}}, '{WEIGHTS}')\""
            ))),
            (_, false) => missing(WEIGHTS),
        }
    }

    /// sha-256 over the sorted (file name, sha-256) list and the canonical metadata.
    pub fn digest(&self) -> Digest {
        let mut listing = String::new();
        for (name, content) in &self.files {
            listing.push_str(&format!("{name}\0{}\n", Digest::of(content).hex()));
        }
        listing.push_str(&self.metadata.canonical());
        Digest::of(listing.as_bytes())
    }
}

impl Metadata {
    /// JSON text: struct fields serialise in one order and absent ones are left out, so equal metadata has equal text.
    pub(super) fn canonical(&self) -> String {
        serde_json::to_string(self).expect("metadata has string keys only")
    }
}

/// What an adapter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    Generate,
    Classify,
}

/// The `metadata` part of an upload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem_type: Option<ProblemType>,
    /// Text with `{fields}`, e.g. `"Question: {question}\nAnswer:"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_format: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationDefaults>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Generation settings that an adapter or a base brings along; a request's own values win.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerationDefaults {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub do_sample: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_repeat_ngram_size: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_beams: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_return_sequences: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_full_text: Option<bool>,
    /// Tokens that end the text, in place of the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<EosTokens>,
}

/// When beam search stops: transformers' `false`, `true` or `"never"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "EarlyStoppingText", into = "EarlyStoppingText")]
pub enum EarlyStopping {
    /// `false`: when the best running beam is unlikely to beat the worst finished one.
    #[default]
    Heuristic,
    /// `true`: as soon as there are `num_beams` finished ones.
    Eager,
    /// `"never"`: when no running beam can beat the worst finished one.
    Never,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum EarlyStoppingText {
    Flag(bool),
    Word(String),
}

impl TryFrom<EarlyStoppingText> for EarlyStopping {
    type Error = String;

    fn try_from(text: EarlyStoppingText) -> Result<Self, String> {
        match text {
            EarlyStoppingText::Flag(false) => Ok(Self::Heuristic),
            EarlyStoppingText::Flag(true) => Ok(Self::Eager),
            EarlyStoppingText::Word(word) if word == "never" => Ok(Self::Never),
            EarlyStoppingText::Word(word) => {
                Err(format!("early_stopping must be true, false or \"never\", given {word:?}"))
            }
        }
    }
}

impl From<EarlyStopping> for EarlyStoppingText {
    fn from(value: EarlyStopping) -> Self {
        match value {
            EarlyStopping::Heuristic => Self::Flag(false),
            EarlyStopping::Eager => Self::Flag(true),
            EarlyStopping::Never => Self::Word("never".into()),
        }
    }
}

/// One id or several, as generation_config.json writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum EosTokens {
    One(u32),
    Several(Vec<u32>),
}

impl EosTokens {
    /// As a list.
    pub fn ids(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Several(ids) => ids,
        }
    }
}
