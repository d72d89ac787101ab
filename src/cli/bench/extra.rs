//! What a request says beyond what this tool knows of.

use std::str::FromStr;

use serde_json::{Map, Value};

/// Stands for the request's adapter.
const ADAPTER: &str = "$adapter";

/// Fields of a request's body.
#[derive(Clone, Debug)]
pub struct Extra(Map<String, Value>);

impl Extra {
    /// Puts them into a body, in place of what is there.
    pub fn put(&self, body: &mut Value, adapter: Option<&str>) {
        for (key, value) in &self.0 {
            body[key] = filled(value, adapter);
        }
    }
}

impl FromStr for Extra {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text).map(Self).map_err(|error| format!("a JSON object is expected: {error}"))
    }
}

/// The value with the adapter in its place; as a number where its name is one.
fn filled(value: &Value, adapter: Option<&str>) -> Value {
    match value {
        Value::String(text) if text == ADAPTER => match adapter.map(|name| (name, name.parse::<u64>())) {
            Some((_, Ok(number))) => number.into(),
            Some((name, Err(_))) => name.into(),
            None => Value::Null,
        },
        Value::Array(values) => values.iter().map(|value| filled(value, adapter)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), filled(value, adapter))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_added_and_know_the_adapter() {
        let extra: Extra = r#"{"lora": [{"id": "$adapter", "scale": 1.5}], "stop": []}"#.parse().unwrap();
        let put = |adapter| {
            let mut body = json!({"model": "m", "stop": ["a"]});
            extra.put(&mut body, adapter);
            body
        };
        assert_eq!(put(Some("3")), json!({"model": "m", "stop": [], "lora": [{"id": 3, "scale": 1.5}]}));
        assert_eq!(put(Some("joke"))["lora"][0]["id"], "joke");
        assert_eq!(put(None)["lora"][0]["id"], Value::Null);
        assert!("[1]".parse::<Extra>().is_err());
    }
}
