//! What `generate` and `classify` have in common: the adapter and the text.

use std::io::Read;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};

use super::client::Server;

/// Whom to ask about what.
#[derive(Debug, Args)]
pub struct Question {
    /// The adapter: name, name@3 or name@sha256:...; "-" is the plain base
    id: String,
    /// The text; "-" reads it from standard input
    text: Option<String>,
    /// A field of the adapter's prompt format, in place of TEXT; may be repeated
    #[arg(short, long, value_name = "NAME=TEXT", conflicts_with = "text")]
    field: Vec<String>,
    /// The base, where there are several
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    #[command(flatten)]
    pub server: Server,
}

impl Question {
    /// The request's `adapter_id`, `base` and `input`.
    pub fn body(&self) -> Result<Map<String, Value>> {
        let mut body = Map::new();
        if self.id != "-" {
            body.insert("adapter_id".into(), json!(self.id));
        }
        if let Some(base) = &self.base {
            body.insert("base".into(), json!(base));
        }
        body.insert("input".into(), self.input()?);
        Ok(body)
    }

    fn input(&self) -> Result<Value> {
        if !self.field.is_empty() {
            let fields = self.field.iter().map(|field| {
                let (name, text) =
                    field.split_once('=').with_context(|| format!("--field must be NAME=TEXT, given {field:?}"))?;
                Ok((name.to_owned(), json!(text)))
            });
            return Ok(Value::Object(fields.collect::<Result<_>>()?));
        }
        match self.text.as_deref() {
            Some("-") => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("standard input")?;
                Ok(json!(text.strip_suffix('\n').unwrap_or(&text)))
            }
            Some(text) => Ok(json!(text)),
            None => bail!("a text is needed: repertoire generate {} \"...\"", self.id),
        }
    }
}
