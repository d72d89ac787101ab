//! GGUF files: configuration and tensors under Hugging Face names, dequantised.

use std::cell::RefCell;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use serde_json::{Map, json};

use crate::device::Cargo;

use super::quantised::Quantised;
use super::{LoadError, ModelConfig};

/// An open GGUF file.
pub struct GgufFile {
    pub content: Content,
    path: PathBuf,
    file: RefCell<BufReader<File>>,
    /// The same file, for readers that say where.
    anywhere: File,
}

impl GgufFile {
    /// Opens a file and reads its metadata.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let file = File::open(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
        let anywhere = file.try_clone().map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
        let mut file = BufReader::new(file);
        let content = Content::read(&mut file).map_err(|e| LoadError::File {
            path: path.to_owned(),
            message: format!("not a readable GGUF file: {e}"),
        })?;
        Ok(Self { content, path: path.to_owned(), file: RefCell::new(file), anywhere })
    }

    fn architecture(&self) -> Result<&str, LoadError> {
        let value = self.content.metadata.get("general.architecture").and_then(|v| v.to_string().ok());
        value.map(String::as_str).ok_or_else(|| self.error("it names no general.architecture"))
    }

    fn error(&self, message: &str) -> LoadError {
        LoadError::File { path: self.path.clone(), message: message.into() }
    }

    fn number(&self, key: &str) -> Option<f64> {
        let key = format!("{}.{key}", self.architecture().ok()?);
        match self.content.metadata.get(&key)? {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            other => other.to_u64().ok().map(|n| n as f64),
        }
    }

    fn required(&self, key: &str) -> Result<u64, LoadError> {
        let value = self.number(key).map(|n| n as u64);
        value.ok_or_else(|| self.error(&format!("its metadata has no {}.{key}", self.architecture().unwrap_or("?"))))
    }

    /// What config.json would say.
    pub fn config(&self) -> Result<ModelConfig, LoadError> {
        let architecture = self.architecture()?;
        if !matches!(architecture, "llama" | "qwen2" | "qwen3") {
            return Err(LoadError::Unsupported(format!(
                "GGUF architecture {architecture:?}; llama, qwen2 and qwen3 are read from GGUF files"
            )));
        }
        if self.number("expert_count").is_some_and(|n| n > 0.0) {
            return Err(LoadError::Unsupported("a mixture of experts".into()));
        }
        let embedding = self.content.tensor_infos.get("token_embd.weight");
        let vocab = embedding.ok_or_else(|| self.error("it has no token_embd.weight"))?.shape.dims()[0];
        let heads = self.required("attention.head_count")?;
        let mut rope = Map::new();
        rope.insert("rope_theta".into(), json!(self.number("rope.freq_base").unwrap_or(10_000.0)));
        let scaling = self.content.metadata.get(&format!("{architecture}.rope.scaling.type"));
        match scaling.and_then(|v| v.to_string().ok()).map(String::as_str) {
            None | Some("none") => {}
            Some("linear") => {
                rope.insert("rope_type".into(), json!("linear"));
                rope.insert("factor".into(), json!(self.number("rope.scaling.factor").unwrap_or(1.0)));
            }
            Some(other) => return Err(LoadError::Unsupported(format!("rope scaling {other:?} in a GGUF file"))),
        }
        let mut config = json!({
            "model_type": architecture,
            "num_hidden_layers": self.required("block_count")?,
            "hidden_size": self.required("embedding_length")?,
            "intermediate_size": self.required("feed_forward_length")?,
            "num_attention_heads": heads,
            "num_key_value_heads": self.number("attention.head_count_kv").map_or(heads, |n| n as u64),
            "vocab_size": vocab,
            "max_position_embeddings": self.required("context_length")?,
            "rms_norm_eps": self.number("attention.layer_norm_rms_epsilon").unwrap_or(1e-6),
            "tie_word_embeddings": !self.content.tensor_infos.contains_key("output.weight"),
            "rope_parameters": rope,
        });
        if let Some(pad) = self.special_token("padding") {
            config["pad_token_id"] = json!(pad);
        }
        if let Some(dim) = self.number("attention.key_length") {
            config["head_dim"] = json!(dim as u64);
        }
        let json = config.as_object().expect("just made");
        let mut config = ModelConfig::from_json(json)?;
        // As in config.json: inside the window, sliding attention is full attention.
        if let Some(window) = self.number("attention.sliding_window").filter(|window| *window > 0.0) {
            config.context = config.context.min(window as usize);
        }
        // llama3's scaling is stored as factors that divide the frequencies.
        if self.content.tensor_infos.contains_key("rope_freqs.weight") {
            let factors = self.read("rope_freqs.weight", &Device::Cpu)?.to_vec1::<f32>()?;
            for (frequency, factor) in config.inverse_frequencies.iter_mut().zip(factors) {
                *frequency /= factor;
            }
        }
        Ok(config)
    }

    /// The tokens that end a text: of the text itself, of a turn, of a message.
    pub fn ends_of_text(&self) -> Vec<u32> {
        let mut ends: Vec<u32> = ["eos", "eot", "eom"].iter().filter_map(|name| self.special_token(name)).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }

    fn special_token(&self, name: &str) -> Option<u32> {
        let id = self.content.metadata.get(&format!("tokenizer.ggml.{name}_token_id"))?;
        id.to_u64().ok().map(|id| id as u32)
    }

    fn read(&self, name: &str, device: &Device) -> Result<Tensor, LoadError> {
        let tensor = self.content.tensor(&mut *self.file.borrow_mut(), name, device)?;
        Ok(tensor.dequantize(device)?)
    }

    /// The tensor that Hugging Face calls `name`, dequantised to f32.
    pub fn tensor(&self, name: &str, config: &ModelConfig, device: &Device) -> Result<Option<Tensor>, LoadError> {
        let Some(gguf_name) = gguf_name(name) else { return Ok(None) };
        if !self.content.tensor_infos.contains_key(&gguf_name) {
            return Ok(None);
        }
        let tensor = self.read(&gguf_name, device)?;
        Ok(Some(match interleaved(name, config) {
            Some(heads) => uninterleave(&tensor, heads)?,
            None => tensor,
        }))
    }

    /// The numbers of the same tensor, dequantised where they are wanted.
    pub fn cargo(&self, name: &str, config: &ModelConfig) -> Option<Cargo<'_>> {
        let info = self.content.tensor_infos.get(&gguf_name(name)?)?;
        let shape = info.shape.dims();
        let head_rows = interleaved(name, config).and_then(|heads| shape[0].checked_div(heads));
        let quantised = Quantised {
            file: &self.anywhere,
            at: self.content.tensor_data_offset.saturating_add(info.offset),
            dtype: info.ggml_dtype,
            len: info.shape.elem_count(),
            row: shape[1..].iter().product(),
            head_rows,
        };
        Some(Cargo::made(shape, move |from, out| quantised.read(from, out)))
    }
}

/// Of a tensor whose heads have their halves interleaved, as llama.cpp keeps Llama's queries and keys, the number of heads.
fn interleaved(name: &str, config: &ModelConfig) -> Option<usize> {
    match config.family.as_str() {
        "llama" if name.contains("q_proj") => Some(config.heads),
        "llama" if name.contains("k_proj") => Some(config.kv_heads),
        _ => None,
    }
}

/// [heads, half, 2, ..] to [heads, 2, half, ..].
fn uninterleave(tensor: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let shape = tensor.shape().clone();
    let rows = shape.dims()[0];
    let rest = shape.elem_count() / rows;
    tensor.reshape((heads, rows / heads / 2, 2, rest))?.transpose(1, 2)?.contiguous()?.reshape(shape)
}

/// `model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight`.
fn gguf_name(name: &str) -> Option<String> {
    const PARTS: [(&str, &str); 11] = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, parameter) = rest.rsplit_once('.')?;
    let (_, part) = PARTS.iter().find(|(hf, _)| *hf == module)?;
    Some(format!("blk.{layer}.{part}.{parameter}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// llama.cpp's key, `LLM_KV_ATTENTION_SLIDING_WINDOW`; 0 is no window.
    #[test]
    fn a_sliding_window_is_the_context() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bases/llama.gguf");
        let mut file = GgufFile::open(&path).unwrap();
        let whole = file.config().unwrap().context;
        for (window, context) in [(0, whole), (32, 32), (1 << 20, whole)] {
            file.content.metadata.insert("llama.attention.sliding_window".into(), Value::U32(window));
            assert_eq!(file.config().unwrap().context, context);
        }
    }
}
