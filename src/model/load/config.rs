//! config.json in the spellings people have: transformers 5's and the hub's older ones.

use std::path::Path;

use repertoire_kernels::cpu::Activation;
use serde_json::{Map, Value};

use super::LoadError;

mod rope;
#[cfg(test)]
mod tests;

/// What a body needs to know of its base.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// `model_type`.
    pub family: String,
    pub layers: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
    pub norm_eps: f32,
    pub activation: Activation,
    /// Whether the output head shares the embedding's matrix.
    pub tied: bool,
    /// Inverse frequencies [head_dim / 2], scaling applied; empty where positions are learned.
    pub inverse_frequencies: Vec<f32>,
    /// BERT: how many token types there are.
    pub token_types: usize,
    /// `pad_token_id`.
    pub pad: Option<u32>,
}

impl ModelConfig {
    /// Reads config.json.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let text = std::fs::read_to_string(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
        let value: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|e| LoadError::File { path: path.to_owned(), message: e.to_string() })?;
        Self::from_json(&value)
    }

    /// Reads the content of config.json.
    pub fn from_json(json: &Map<String, Value>) -> Result<Self, LoadError> {
        let fields = Fields(json);
        let family = fields.text("model_type")?.to_owned();
        match family.as_str() {
            "gpt2" => Self::gpt2(&fields),
            "bert" => Self::bert(&fields),
            "llama" | "mistral" | "qwen2" | "qwen3" => Self::llama(&fields, family),
            other => Err(unsupported(format!(
                "model_type {other:?}; this server runs gpt2, bert, llama, mistral, qwen2 and qwen3"
            ))),
        }
    }

    fn gpt2(fields: &Fields<'_>) -> Result<Self, LoadError> {
        let hidden = fields.size("n_embd", None)?;
        let heads = fields.size("n_head", None)?;
        for (key, exact) in [("scale_attn_by_inverse_layer_idx", false), ("scale_attn_weights", true)] {
            if fields.flag(key, exact) != exact {
                return Err(unsupported(format!("{key} is {}, only {exact} is computed", !exact)));
            }
        }
        Ok(Self {
            family: "gpt2".into(),
            layers: fields.size("n_layer", None)?,
            hidden,
            intermediate: fields.size("n_inner", Some(4 * hidden))?,
            heads,
            kv_heads: heads,
            head_dim: divide(hidden, heads)?,
            vocab: fields.size("vocab_size", None)?,
            context: fields.size("n_positions", Some(1024))?,
            norm_eps: fields.number("layer_norm_epsilon", 1e-5),
            activation: fields.activation("activation_function", "gelu_new")?,
            tied: fields.flag("tie_word_embeddings", true),
            inverse_frequencies: vec![],
            token_types: 0,
            pad: fields.optional("pad_token_id").map(|id| id as u32),
        })
    }

    fn bert(fields: &Fields<'_>) -> Result<Self, LoadError> {
        let hidden = fields.size("hidden_size", None)?;
        let heads = fields.size("num_attention_heads", None)?;
        if let Some(kind) = fields.0.get("position_embedding_type").and_then(Value::as_str).filter(|k| *k != "absolute")
        {
            return Err(unsupported(format!("position_embedding_type {kind:?}, only \"absolute\" is computed")));
        }
        if fields.flag("is_decoder", false) {
            return Err(unsupported("a BERT with is_decoder".into()));
        }
        Ok(Self {
            family: "bert".into(),
            layers: fields.size("num_hidden_layers", None)?,
            hidden,
            intermediate: fields.size("intermediate_size", None)?,
            heads,
            kv_heads: heads,
            head_dim: divide(hidden, heads)?,
            vocab: fields.size("vocab_size", None)?,
            context: fields.size("max_position_embeddings", Some(512))?,
            norm_eps: fields.number("layer_norm_eps", 1e-12),
            activation: fields.activation("hidden_act", "gelu")?,
            tied: true,
            inverse_frequencies: vec![],
            token_types: fields.size("type_vocab_size", Some(2))?,
            pad: fields.optional("pad_token_id").map(|id| id as u32),
        })
    }

    fn llama(fields: &Fields<'_>, family: String) -> Result<Self, LoadError> {
        let hidden = fields.size("hidden_size", None)?;
        let heads = fields.size("num_attention_heads", None)?;
        let head_dim = match fields.optional("head_dim") {
            Some(dim) => dim,
            None if family == "qwen3" => 128,
            None => divide(hidden, heads)?,
        };
        let defaults = Defaults::of(&family, heads);
        let layers = fields.size("num_hidden_layers", None)?;
        let longest = fields.size("max_position_embeddings", Some(defaults.context))?;
        // Inside the window, sliding attention is full attention: the window becomes the context.
        let window = window(fields, &family, layers)?;
        let kv_heads = match fields.0.get("num_key_value_heads") {
            Some(Value::Null) => heads,
            _ => fields.size("num_key_value_heads", Some(defaults.kv_heads))?,
        };
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(unsupported(format!(
                "num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
            )));
        }
        Ok(Self {
            layers,
            hidden,
            intermediate: fields.size("intermediate_size", None)?,
            heads,
            kv_heads,
            head_dim,
            vocab: fields.size("vocab_size", None)?,
            context: window.map_or(longest, |window| window.min(longest)),
            norm_eps: fields.number("rms_norm_eps", 1e-6),
            activation: fields.activation("hidden_act", "silu")?,
            tied: fields.flag("tie_word_embeddings", false),
            inverse_frequencies: rope::inverse_frequencies(fields, head_dim, longest)?,
            token_types: 0,
            pad: fields.optional("pad_token_id").map(|id| id as u32),
            family,
        })
    }
}

/// What transformers' configuration classes put where config.json has no key at all.
struct Defaults {
    context: usize,
    kv_heads: usize,
}

impl Defaults {
    fn of(family: &str, heads: usize) -> Self {
        match family {
            "mistral" => Self { context: 131_072, kv_heads: 8 },
            "qwen2" | "qwen3" => Self { context: 32_768, kv_heads: 32 },
            _ => Self { context: 2048, kv_heads: heads },
        }
    }
}

/// The number of tokens that a sliding layer looks back on, where some layer slides.
fn window(fields: &Fields<'_>, family: &str, layers: usize) -> Result<Option<usize>, LoadError> {
    let slides = match family {
        "mistral" => true,
        "qwen2" | "qwen3" if !fields.flag("use_sliding_window", false) => false,
        "qwen2" | "qwen3" => match fields.0.get("layer_types").and_then(Value::as_array) {
            Some(kinds) => kinds.iter().any(|kind| kind == "sliding_attention"),
            None => layers > fields.size("max_window_layers", Some(28))?,
        },
        _ => false,
    };
    match fields.0.get("sliding_window") {
        _ if !slides => Ok(None),
        Some(Value::Null) => Ok(None),
        _ => fields.size("sliding_window", Some(4096)).map(Some),
    }
}

fn unsupported(message: String) -> LoadError {
    LoadError::Unsupported(message)
}

fn divide(hidden: usize, heads: usize) -> Result<usize, LoadError> {
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(unsupported(format!("hidden size {hidden} is no multiple of {heads} heads")));
    }
    Ok(hidden / heads)
}

/// Typed access to a JSON object; null counts as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn optional(&self, key: &str) -> Option<usize> {
        self.0.get(key)?.as_u64().map(|n| n as usize)
    }

    fn size(&self, key: &str, default: Option<usize>) -> Result<usize, LoadError> {
        let missing = || unsupported(format!("config.json has no {key}"));
        match self.0.get(key) {
            None | Some(Value::Null) => default.ok_or_else(missing),
            Some(value) => match value.as_u64() {
                Some(n) if n <= 1 << 32 => Ok(n as usize),
                _ => Err(unsupported(format!("{key} must be a whole number, given {value}"))),
            },
        }
    }

    fn number(&self, key: &str, default: f32) -> f32 {
        self.0.get(key).and_then(Value::as_f64).map_or(default, |n| n as f32)
    }

    fn required(&self, key: &str) -> Result<f32, LoadError> {
        let value = self.0.get(key).and_then(Value::as_f64);
        value.map(|n| n as f32).ok_or_else(|| unsupported(format!("rope scaling without {key}")))
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.0.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    fn text(&self, key: &str) -> Result<&str, LoadError> {
        let value = self.0.get(key).and_then(Value::as_str);
        value.ok_or_else(|| unsupported(format!("config.json has no {key}")))
    }

    fn activation(&self, key: &str, default: &str) -> Result<Activation, LoadError> {
        match self.0.get(key).and_then(Value::as_str).unwrap_or(default) {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            "silu" | "swish" => Ok(Activation::Silu),
            "tanh" => Ok(Activation::Tanh),
            other => Err(unsupported(format!("{key} {other:?}; gelu, gelu_new, relu, silu and tanh are computed"))),
        }
    }
}
