//! Reads server-sent events.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::client::refusal;

/// Calls `each` with every event's JSON until `[DONE]`.
pub fn read(stream: impl Read, mut each: impl FnMut(&Value) -> Result<()>) -> Result<()> {
    for line in BufReader::new(stream).lines() {
        let line = line.context("the answer broke off")?;
        // Comments, event names and blank lines carry nothing that the data does not say.
        let Some(data) = line.strip_prefix("data:").map(str::trim_start) else { continue };
        if data == "[DONE]" {
            return Ok(());
        }
        let event: Value =
            serde_json::from_str(data).with_context(|| format!("an event that is not JSON: {data:?}"))?;
        match refusal(&event) {
            Some(refusal) => return Err(refusal.into()),
            None => each(&event)?,
        }
    }
    bail!("the answer broke off before [DONE]")
}

#[cfg(test)]
mod tests {
    use super::read;

    fn texts(stream: &str) -> (String, Result<(), String>) {
        let mut texts = String::new();
        let result = read(stream.as_bytes(), |event| {
            texts.push_str(event["text"].as_str().unwrap_or_default());
            Ok(())
        });
        (texts, result.map_err(|error| error.to_string()))
    }

    #[test]
    fn events_are_read_until_done() {
        let stream = ": comment\n\ndata: {\"text\":\"a\"}\n\ndata:{\"text\":\"b\"}\n\ndata: [DONE]\n\ndata: {\"text\":\"c\"}\n\n";
        assert_eq!(texts(stream), ("ab".into(), Ok(())));
    }

    #[test]
    fn an_error_in_the_stream_and_a_broken_stream_are_errors() {
        let error =
            "event: error\ndata: {\"error\":{\"code\":\"timeout\",\"message\":\"too late\",\"param\":null}}\n\n";
        assert_eq!(texts(error).1, Err("too late".into()));
        assert!(texts("data: {\"text\":\"a\"}\n\n").1.unwrap_err().contains("broke off"));
    }
}
