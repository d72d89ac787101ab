//! Prompt formats: text with `{fields}` and virtual tokens.

use std::collections::BTreeMap;

use super::TextError;

/// What a request asks about: plain text, or fields for a prompt format.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    Text(String),
    Fields(BTreeMap<String, String>),
}

/// A part of a filled-in prompt. Virtual tokens are parts of their own, so nothing that a user writes can become one.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Text(String),
    Virtual,
}

/// A parsed template: `{field}` stands for a field, `<|P|>` for a virtual token.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptFormat {}

impl PromptFormat {
    /// Reads a template; `{{` and `}}` are braces.
    pub fn parse(_template: &str) -> Result<Self, TextError> {
        todo!()
    }

    /// Number of `<|P|>`.
    pub fn virtual_tokens(&self) -> usize {
        todo!()
    }

    /// The names of its fields, in order.
    pub fn fields(&self) -> &[String] {
        todo!()
    }

    /// Fills the fields in. A template without fields is a prefix: the text follows it; a plain text fills `{text}`.
    pub fn fill(&self, _input: &Input) -> Result<Vec<Piece>, TextError> {
        todo!()
    }
}
