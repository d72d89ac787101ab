//! OpenAI's completions, as servers of many makers understand them.

use serde_json::{Value, json};

/// The body of a request. `ignore_eos` and `stream_options` are ignored where they are not known.
pub fn complete(model: &str, prompt: &str, output_tokens: usize, stream: bool) -> Value {
    let mut body = json!({
        "model": model,
        "prompt": prompt,
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": true,
        "stream": stream,
    });
    if stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

/// Whether an event brings a token: some servers send text that is still half a character as none,
/// and some tell the end in an event of its own.
pub fn is_token(event: &Value) -> bool {
    let choice = &event["choices"][0];
    let text = choice["text"].as_str().unwrap_or_default();
    choice.is_object() && (!text.is_empty() || choice["finish_reason"].is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_usage_are_no_tokens_and_half_characters_are() {
        let choice = |text: &str, reason: Value| json!({"choices": [{"text": text, "finish_reason": reason}]});
        for (event, expected) in [
            (choice("a", Value::Null), true),
            (choice("", Value::Null), true),
            (choice("z", json!("length")), true),
            (choice("", json!("length")), false),
            (json!({"choices": [], "usage": {"completion_tokens": 3}}), false),
            (json!({"choices": [{"text": "a"}]}), true),
            (json!({}), false),
        ] {
            assert_eq!(is_token(&event), expected, "{event}");
        }
    }
}
