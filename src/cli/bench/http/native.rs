//! Our own routes.

use serde_json::{Value, json};

/// The body of a request to generate. Settings that an adapter saved must not change how much is computed.
pub fn generate(adapter: Option<&str>, base: Option<&str>, prompt: &str, output_tokens: usize, stream: bool) -> Value {
    json!({
        "adapter_id": adapter,
        "base": base,
        "input": prompt,
        "parameters": {
            "max_new_tokens": output_tokens,
            "ignore_eos": true,
            "stop": [],
            "do_sample": false,
            "num_beams": 1,
            "num_return_sequences": 1,
        },
        "stream": stream,
    })
}

/// The body of a request to classify.
pub fn classify(adapter: Option<&str>, base: Option<&str>, prompt: &str) -> Value {
    json!({"adapter_id": adapter, "base": base, "input": prompt})
}

/// Whether an event brings a token; others tell of text or the end alone.
pub fn is_token(event: &Value) -> bool {
    !event["token"].is_null()
}
