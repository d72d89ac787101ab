//! `adapter_config.json`: typed access, and the refusal of what is not understood.

use serde_json::{Map, Value};

use super::known::{self, COMMON};
use crate::adapter::AdapterError;
use crate::adapter::package::CONFIG;

const MAX_BYTES: usize = 4 << 20;
const MAX_NAMES: usize = 65_536;

/// The methods of PEFT that can be applied exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Lora,
    Ia3,
    PromptTuning,
    PTuning,
    PrefixTuning,
}

/// `task_type`; null is `None` around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskType {
    CausalLm,
    SeqCls,
}

/// Names as PEFT takes them: a list of suffixes, or a pattern that matches the whole name.
#[derive(Clone, Debug)]
pub(super) enum Names {
    List(Vec<String>),
    Pattern(String),
}

/// A configuration whose every key is understood.
#[derive(Clone, Debug)]
pub(in crate::adapter) struct Config {
    fields: Map<String, Value>,
    pub(super) method: Method,
    pub(super) task: Option<TaskType>,
}

impl Config {
    /// Reads the file and refuses unknown methods, tasks and settings by name.
    pub(in crate::adapter) fn parse(bytes: &[u8]) -> Result<Self, AdapterError> {
        if bytes.len() > MAX_BYTES {
            return Err(AdapterError::invalid(format!("{CONFIG} may have {MAX_BYTES} bytes, given {}", bytes.len())));
        }
        let fields: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|why| AdapterError::invalid(format!("{CONFIG} is not a JSON object: {why}")))?;
        let method = method(fields.get("peft_type"))?;
        let task = task(fields.get("task_type"))?;
        let config = Self { fields, method, task };
        config.check()?;
        Ok(config)
    }

    /// The base that the adapter was trained on, as its trainer called it.
    pub(in crate::adapter) fn base_name(&self) -> Result<Option<&str>, AdapterError> {
        self.text("base_model_name_or_path")
    }

    /// The value of a key, if it is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// A truth value; absent and null are false.
    pub(super) fn flag(&self, key: &str) -> Result<bool, AdapterError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong(key, "true or false", other)),
        }
    }

    /// A text, if there is one.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, AdapterError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(key, "text", other)),
        }
    }

    /// A whole number from 0 on, if there is one.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, AdapterError> {
        self.get(key).map(|value| as_count(key, value)).transpose()
    }

    /// A number, if there is one.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, AdapterError> {
        self.get(key).map(|value| as_number(key, value)).transpose()
    }

    /// A list of names or a pattern, if there is one.
    pub(super) fn names(&self, key: &str) -> Result<Option<Names>, AdapterError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(pattern)) => Ok(Some(Names::Pattern(pattern.clone()))),
            Some(value) => self.list(key, value).map(|names| Some(Names::List(names))),
        }
    }

    /// A list of names; absent is empty.
    pub(super) fn name_list(&self, key: &str) -> Result<Vec<String>, AdapterError> {
        self.get(key).map_or(Ok(Vec::new()), |value| self.list(key, value))
    }

    /// A map of patterns to values in file order; absent is empty.
    pub(super) fn patterns(&self, key: &str) -> Result<Vec<(&str, &Value)>, AdapterError> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => Ok(map.iter().map(|(pattern, value)| (pattern.as_str(), value)).collect()),
            Some(other) => Err(wrong(key, "an object of patterns", other)),
        }
    }

    fn list(&self, key: &str, value: &Value) -> Result<Vec<String>, AdapterError> {
        let items = value.as_array().ok_or_else(|| wrong(key, "a list of names", value))?;
        if items.len() > MAX_NAMES {
            return Err(AdapterError::invalid(format!("{key} may have {MAX_NAMES} names, given {}", items.len())));
        }
        items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(key, "a list of names", item)))
            .collect()
    }

    fn check(&self) -> Result<(), AdapterError> {
        let known = known::of(self.method);
        for (key, value) in &self.fields {
            let key = key.as_str();
            let harmless =
                COMMON.contains(&key) || known.read.contains(&key) || known.inert.contains(&key) || is_empty(value);
            if harmless {
                continue;
            }
            if let Some((_, why)) = known.refused.iter().find(|(name, _)| *name == key) {
                return Err(AdapterError::unsupported(format!("{CONFIG} sets {key} to {}: {why}", shown(value))));
            }
            return Err(AdapterError::unsupported(format!(
                "{CONFIG} sets {key} to {}, which this server does not know; it may change what the adapter computes",
                shown(value)
            )));
        }
        Ok(())
    }
}

fn method(value: Option<&Value>) -> Result<Method, AdapterError> {
    let name = match value {
        Some(Value::String(name)) => name.as_str(),
        Some(other) if !other.is_null() => return Err(wrong("peft_type", "text", other)),
        _ => return Err(AdapterError::invalid(format!("{CONFIG} has no peft_type"))),
    };
    Ok(match name {
        "LORA" => Method::Lora,
        "IA3" => Method::Ia3,
        "PROMPT_TUNING" => Method::PromptTuning,
        "P_TUNING" => Method::PTuning,
        "PREFIX_TUNING" => Method::PrefixTuning,
        _ => {
            return Err(AdapterError::unsupported(format!(
                "peft_type {} cannot be applied exactly; LORA, IA3, PROMPT_TUNING, P_TUNING and PREFIX_TUNING can",
                shown(&Value::String(name.to_owned()))
            )));
        }
    })
}

fn task(value: Option<&Value>) -> Result<Option<TaskType>, AdapterError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => match name.as_str() {
            "CAUSAL_LM" => Ok(Some(TaskType::CausalLm)),
            "SEQ_CLS" => Ok(Some(TaskType::SeqCls)),
            _ => Err(AdapterError::unsupported(format!(
                "task_type {} cannot be served; CAUSAL_LM, SEQ_CLS and null can",
                shown(&Value::String(name.clone()))
            ))),
        },
        Some(other) => Err(wrong("task_type", "text", other)),
    }
}

/// A value as a whole number from 0 on.
pub(super) fn as_count(key: &str, value: &Value) -> Result<usize, AdapterError> {
    let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
    count.ok_or_else(|| wrong(key, "a whole number from 0 on", value))
}

/// A value as a number.
pub(super) fn as_number(key: &str, value: &Value) -> Result<f64, AdapterError> {
    value.as_f64().filter(|n| n.is_finite()).ok_or_else(|| wrong(key, "a number", value))
}

/// The complaint about a value of the wrong type.
pub(super) fn wrong(key: &str, expected: &str, given: &Value) -> AdapterError {
    AdapterError::invalid(format!("{key} must be {expected}, given {}", shown(given)))
}

/// Null, false, and what holds nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// A value as it stands in the file, cut short.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(120) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
