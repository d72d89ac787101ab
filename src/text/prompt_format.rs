//! Prompt formats: text with `{fields}` and virtual tokens.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use super::{TextError, Tokenizer};

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

/// A parsed template: `{field}` stands for a field, `<|P|>`, `<P>` and `<P*N>` for virtual tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptFormat {
    parts: Vec<Part>,
    fields: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Field(String),
    Virtual(usize),
}

/// More virtual tokens than any context holds: a template such as `<P*999999999>` is refused before memory is spent on it.
pub(super) const MOST: usize = 1 << 16;

static VIRTUAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"<\|P\|>|<P>|<P\*([0-9]+)>"));
/// As many virtual tokens as the text has tokens.
pub(super) static LITERAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"<P>(.+?)</P>"));

/// A pattern of our own; that it compiles is tested.
pub(super) fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern that is tested")
}

impl PromptFormat {
    /// Reads a template; `{{` and `}}` are braces. One with `<P>text</P>` must go through [`super::compile`] first, which asks a tokenizer.
    pub fn parse(template: &str) -> Result<Self, TextError> {
        if LITERAL.is_match(template) {
            return Err(wrong("`<P>text</P>` can only be resolved with the base's tokenizer"));
        }
        let mut format = Self { parts: Vec::new(), fields: Vec::new() };
        let mut at = 0;
        for found in VIRTUAL.captures_iter(template) {
            let (Some(whole), number) = (found.get(0), found.get(1)) else { continue };
            format.push_text(&template[at..whole.start()])?;
            let count = match number {
                Some(digits) => digits.as_str().parse().unwrap_or(usize::MAX),
                None => 1,
            };
            format.push_virtual(count)?;
            at = whole.end();
        }
        format.push_text(&template[at..])?;
        Ok(format)
    }

    fn push_virtual(&mut self, count: usize) -> Result<(), TextError> {
        if count > MOST || self.virtual_tokens() + count > MOST {
            return Err(wrong(&format!("more than {MOST} virtual tokens")));
        }
        match self.parts.last_mut() {
            Some(Part::Virtual(before)) => *before += count,
            _ if count == 0 => {}
            _ => self.parts.push(Part::Virtual(count)),
        }
        Ok(())
    }

    /// Text and fields between virtual tokens, by the rules of Python's `str.format`, names only.
    fn push_text(&mut self, mut text: &str) -> Result<(), TextError> {
        let mut plain = String::new();
        while let Some(at) = text.find(['{', '}']) {
            plain.push_str(&text[..at]);
            let brace = &text[at..=at];
            text = &text[at + 1..];
            if let Some(rest) = text.strip_prefix(brace) {
                plain.push_str(brace);
                text = rest;
            } else if brace == "}" {
                return Err(wrong("a single `}`; a brace that is text is written `}}`"));
            } else {
                let end = text.find(['{', '}']).filter(|end| text[*end..].starts_with('}'));
                let end = end.ok_or_else(|| wrong("a `{` that is not closed; a brace that is text is written `{{`"))?;
                self.push_plain(&mut plain);
                self.push_field(text[..end].trim())?;
                text = &text[end + 1..];
            }
        }
        plain.push_str(text);
        self.push_plain(&mut plain);
        Ok(())
    }

    fn push_plain(&mut self, plain: &mut String) {
        if !plain.is_empty() {
            self.parts.push(Part::Text(std::mem::take(plain)));
        }
    }

    fn push_field(&mut self, name: &str) -> Result<(), TextError> {
        let named =
            name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_numeric());
        if name.is_empty() || !named {
            return Err(wrong(&format!("`{{{name}}}` is not a field; fields are names, such as `{{text}}`")));
        }
        if !self.fields.iter().any(|field| field == name) {
            self.fields.push(name.to_owned());
        }
        self.parts.push(Part::Field(name.to_owned()));
        Ok(())
    }

    /// Number of virtual tokens.
    pub fn virtual_tokens(&self) -> usize {
        self.parts.iter().map(|part| if let Part::Virtual(count) = part { *count } else { 0 }).sum()
    }

    /// The names of its fields, in order.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// The template in ruprompts' compiled form: each virtual token written out as `<|P|>`.
    pub fn template(&self) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.replace('{', "{{").replace('}', "}}"),
            Part::Field(name) => format!("{{{name}}}"),
            Part::Virtual(count) => Tokenizer::VIRTUAL_TOKEN.repeat(*count),
        };
        self.parts.iter().map(text).collect()
    }

    /// Fills the fields in. A template without fields is a prefix: the text follows it; a plain text fills `{text}`.
    pub fn fill(&self, input: &Input) -> Result<Vec<Piece>, TextError> {
        let mut pieces = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => push(&mut pieces, text),
                Part::Virtual(count) => pieces.extend(std::iter::repeat_n(Piece::Virtual, *count)),
                Part::Field(name) => push(&mut pieces, self.value(name, input)?),
            }
        }
        match input {
            Input::Text(text) if self.fields.is_empty() => push(&mut pieces, text),
            Input::Text(_) => {}
            // A prefix takes `{"text": ...}` as well as the text itself.
            Input::Fields(fields) if self.fields.is_empty() => {
                push(&mut pieces, fields.get("text").ok_or_else(|| self.misfit(&["text"], &[]))?);
                self.no_extra(fields, &["text".to_owned()])?;
            }
            Input::Fields(fields) => self.no_extra(fields, &self.fields)?,
        }
        Ok(pieces)
    }

    fn value<'a>(&self, name: &str, input: &'a Input) -> Result<&'a str, TextError> {
        let value = match input {
            Input::Text(text) => (name == "text").then_some(text),
            Input::Fields(fields) => fields.get(name),
        };
        value.map(String::as_str).ok_or_else(|| {
            let given = |field: &&String| match input {
                Input::Text(_) => *field == "text",
                Input::Fields(fields) => fields.contains_key(*field),
            };
            let missing: Vec<&str> = self.fields.iter().filter(|field| !given(field)).map(String::as_str).collect();
            match input {
                Input::Text(_) => self.misfit(&missing, &[]),
                Input::Fields(fields) => {
                    let extra = fields.keys().filter(|field| !self.fields.contains(field));
                    self.misfit(&missing, &extra.map(String::as_str).collect::<Vec<_>>())
                }
            }
        })
    }

    fn no_extra(&self, given: &BTreeMap<String, String>, known: &[String]) -> Result<(), TextError> {
        let extra: Vec<&str> = given.keys().filter(|field| !known.contains(field)).map(String::as_str).collect();
        if extra.is_empty() { Ok(()) } else { Err(self.misfit(&[], &extra)) }
    }

    fn misfit(&self, missing: &[&str], extra: &[&str]) -> TextError {
        let list = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let mut faults = Vec::new();
        if !missing.is_empty() {
            faults.push(format!("the input lacks {}", list(missing)));
        }
        if !extra.is_empty() {
            faults.push(format!("the input has {} too many", list(extra)));
        }
        let fields: Vec<&str> = self.fields.iter().map(String::as_str).collect();
        let takes = if fields.is_empty() { "plain text".to_owned() } else { list(&fields) };
        TextError::Input(format!("{}: the prompt format takes {takes}", faults.join(" and ")))
    }
}

/// Joins neighbouring text: the tokenizer must see it as one.
fn push(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(before)) => before.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

fn wrong(what: &str) -> TextError {
    TextError::Input(format!("prompt format: {what}"))
}

#[cfg(test)]
mod tests;
