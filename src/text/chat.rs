//! Chat templates.

use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value};
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::TextError;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// A base's Jinja chat template with its special tokens.
pub struct ChatTemplate {
    /// A template that does not parse fails when it is used: a base that is only completed with is none the worse for it.
    environment: Result<Environment<'static>, String>,
    tokens: Vec<(String, String)>,
}

/// transformers' tags around what an assistant said; they print nothing of their own.
static GENERATION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a pattern that is tested"));

const NAME: &str = "chat";

impl ChatTemplate {
    /// A template as the base's files bring it, with special tokens (`bos_token` ...) as its variables.
    pub fn new(source: String, tokens: Vec<(String, String)>) -> Self {
        Self { environment: environment(&source).map_err(|error| explain(&error)), tokens }
    }

    /// The prompt text of a conversation, ready for an answer (`add_generation_prompt`).
    pub fn render(&self, messages: &[Message]) -> Result<String, TextError> {
        if messages.is_empty() {
            return Err(TextError::Chat("`messages` is empty".into()));
        }
        let failed =
            |error: &minijinja::Error| TextError::Chat(format!("the base's chat template fails: {}", explain(error)));
        let environment = match &self.environment {
            Ok(environment) => environment,
            Err(error) => return Err(TextError::Chat(format!("the base's chat template cannot be read: {error}"))),
        };
        let mut variables: Vec<(String, Value)> =
            self.tokens.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect();
        let turn = |m: &Message| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]);
        variables.push(("messages".into(), messages.iter().map(turn).collect()));
        variables.push(("add_generation_prompt".into(), Value::from(true)));
        variables.push(("tools".into(), Value::from(())));
        variables.push(("documents".into(), Value::from(())));
        let template = environment.get_template(NAME).map_err(|error| failed(&error))?;
        template.render(Value::from_pairs(variables)).map_err(|error| failed(&error))
    }
}

/// Jinja as transformers sets it up.
fn environment(source: &str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| -> Result<String, minijinja::Error> {
        let now = jiff::ZonedDateTime::now();
        jiff::fmt::strtime::format(format, &now)
            .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
    });
    environment.add_filter("tojson", tojson);
    // Templates ask `tools is iterable and tools | length > 0`; Python's None is not.
    environment.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    let source = GENERATION.replace_all(source, |found: &regex::Captures<'_>| {
        let body = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {body} {}%}}", &found[1], &found[3])
    });
    environment.add_template_owned(NAME, source.into_owned())?;
    Ok(environment)
}

/// `json.dumps(value, ensure_ascii=False, ...)`: Jinja's own filter escapes for HTML.
fn tojson(value: Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut json = Vec::new();
    let written = match indent {
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, Spaced)),
    };
    let failed = |error: String| minijinja::Error::new(ErrorKind::BadSerialization, error);
    written.map_err(|error| failed(error.to_string()))?;
    Ok(Value::from_safe_string(String::from_utf8(json).map_err(|error| failed(error.to_string()))?))
}

/// Python's separators: `, ` and `: `.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// What `raise_exception` said, or what Jinja found and where.
fn explain(error: &minijinja::Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{detail} (line {line})"),
        None => detail,
    }
}

#[cfg(test)]
mod tests;
