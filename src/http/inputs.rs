//! `input` of a request: a text, an object of fields, or a list of either.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::text::Input;

use super::inference::Prompt;

/// One input, or several that are answered each on its own and run together.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Inputs {
    One(InputItem),
    Several(Vec<InputItem>),
}

/// A text, or the fields of the adapter's prompt format.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum InputItem {
    Text(String),
    Fields(BTreeMap<String, String>),
}

impl Inputs {
    /// As prompts, in order.
    pub fn into_prompts(self) -> Vec<Prompt> {
        let items = match self {
            Self::One(item) => vec![item],
            Self::Several(items) => items,
        };
        let input = |item| match item {
            InputItem::Text(text) => Input::Text(text),
            InputItem::Fields(fields) => Input::Fields(fields),
        };
        items.into_iter().map(|item| Prompt::Input(input(item))).collect()
    }
}

// By hand: serde's own word for what fits none of several forms names neither form nor place.
impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Value::deserialize(d)? {
            Value::Array(items) => {
                let items = items.into_iter().enumerate().map(|(index, value)| {
                    item(value).map_err(|found| {
                        D::Error::custom(format!("item {index} must be a text or an object of texts, given {found}"))
                    })
                });
                items.collect::<Result<_, _>>().map(Self::Several)
            }
            value => item(value).map(Self::One).map_err(|found| {
                D::Error::custom(format!("must be a text, an object of texts, or a list of either, given {found}"))
            }),
        }
    }
}

fn item(value: Value) -> Result<InputItem, String> {
    match value {
        Value::String(text) => Ok(InputItem::Text(text)),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| match value {
                Value::String(text) => Ok((name, text)),
                other => Err(format!("{} in the field {name:?}", kind(&other))),
            });
            fields.collect::<Result<_, _>>().map(InputItem::Fields)
        }
        other => Err(kind(&other).to_owned()),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
