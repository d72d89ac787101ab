//! Builds a tokenizer from a GGUF file's metadata.

mod byte_level;
mod sentence_piece;

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use tokenizers::AddedToken;

use super::folder::surround;
use super::{ChatTemplate, TextError, Tokenizer};

const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// A file's metadata, read with errors that name the key.
struct Metadata<'a>(&'a HashMap<String, Value>);

/// Reads `tokenizer.ggml.model` `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE).
pub(super) fn read(metadata: &HashMap<String, Value>) -> Result<Tokenizer, TextError> {
    let metadata = Metadata(metadata);
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.ok_or_else(|| lacks("tokenizer.ggml.tokens"))?;
    let kinds = metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let (mut inner, add_bos) = match metadata.text("tokenizer.ggml.model") {
        Some("gpt2") => byte_level::build(&metadata, &tokens)?,
        Some("llama") => sentence_piece::build(&metadata, &tokens, &kinds)?,
        Some(other) => {
            return Err(refuse(&format!("tokenizer.ggml.model `{other}` is not supported; `gpt2` and `llama` are")));
        }
        None => return Err(lacks("tokenizer.ggml.model")),
    };
    add(&mut inner, &tokens, &kinds)?;
    let named = |key: &str| -> Option<(String, u32)> {
        let id = metadata.number(&format!("tokenizer.ggml.{key}_token_id"))?;
        let text = tokens.get(usize::try_from(id).ok()?)?;
        Some(((*text).to_owned(), u32::try_from(id).ok()?))
    };
    let before = if metadata.flag("tokenizer.ggml.add_bos_token").unwrap_or(add_bos) { named("bos") } else { None };
    let after = if metadata.flag("tokenizer.ggml.add_eos_token").unwrap_or(false) { named("eos") } else { None };
    surround(&mut inner, before, after)?;

    let names = [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")];
    let variables = names.into_iter().filter_map(|(key, name)| Some((name.to_owned(), named(key)?.0)));
    let chat = metadata.text("tokenizer.chat_template");
    let chat = chat.map(|source| ChatTemplate::new(source.to_owned(), variables.collect()));
    Ok(Tokenizer::new(inner, chat))
}

/// Tokens that are matched whole in a text: those marked as control are special, those marked as user-defined are text.
fn add(inner: &mut tokenizers::Tokenizer, tokens: &[&str], kinds: &[i64]) -> Result<(), TextError> {
    let mut added = Vec::new();
    for (token, kind) in tokens.iter().zip(kinds) {
        let special = match *kind {
            UNKNOWN | CONTROL => true,
            USER_DEFINED => false,
            _ => continue,
        };
        // One that is spelled otherwise in the vocabulary would get an id that the model does not have.
        if inner.token_to_id(token).is_some() {
            added.push(AddedToken::from(*token, special).normalized(false));
        }
    }
    inner.add_tokens(added).map(|_| ()).map_err(|error| refuse(&error.to_string()))
}

impl<'a> Metadata<'a> {
    fn text(&self, key: &str) -> Option<&'a str> {
        match self.0.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.0.get(key) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.0.get(key).and_then(number)
    }

    fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, TextError> {
        self.list(key, |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    fn numbers(&self, key: &str) -> Result<Option<Vec<i64>>, TextError> {
        self.list(key, number)
    }

    fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, TextError> {
        self.list(key, |value| value.to_f32().ok())
    }

    fn list<T>(&self, key: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<Vec<T>>, TextError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                let list: Option<Vec<T>> = values.iter().map(read).collect();
                list.map(Some).ok_or_else(|| refuse(&format!("`{key}` holds values of the wrong type")))
            }
            Some(_) => Err(refuse(&format!("`{key}` is not a list"))),
        }
    }
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::I8(number) => Some((*number).into()),
        Value::I16(number) => Some((*number).into()),
        Value::I32(number) => Some((*number).into()),
        Value::I64(number) => Some(*number),
        other => i64::try_from(other.to_u64().ok()?).ok(),
    }
}

fn lacks(key: &str) -> TextError {
    refuse(&format!("the metadata lacks `{key}`"))
}

fn refuse(what: &str) -> TextError {
    TextError::Load(format!("GGUF: {what}"))
}

#[cfg(test)]
mod tests;
