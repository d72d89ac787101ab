//! generation_config.json: what a base says of how to generate with it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::adapter::{EosTokens, GenerationDefaults};

/// Sampling fields and penalties of generation_config.json, and the end of text (else config.json's). Absent files say nothing.
pub fn read(folder: &Path) -> GenerationDefaults {
    let generation = object(&folder.join("generation_config.json"));
    let mut defaults = GenerationDefaults {
        do_sample: field(&generation, "do_sample"),
        temperature: field(&generation, "temperature"),
        top_k: field(&generation, "top_k"),
        top_p: field(&generation, "top_p"),
        min_p: field(&generation, "min_p"),
        repetition_penalty: field(&generation, "repetition_penalty"),
        no_repeat_ngram_size: field(&generation, "no_repeat_ngram_size"),
        length_penalty: field(&generation, "length_penalty"),
        ..Default::default()
    };
    let eos = field(&generation, "eos_token_id");
    defaults.eos_token_id = eos.or_else(|| field(&object(&folder.join("config.json")), "eos_token_id"));
    defaults
}

/// For bases that bring no such file: the ends of text alone.
pub fn ending_with(ends: Vec<u32>) -> GenerationDefaults {
    GenerationDefaults { eos_token_id: Some(EosTokens::Several(ends)), ..Default::default() }
}

fn object(file: &Path) -> Map<String, Value> {
    let Ok(text) = std::fs::read_to_string(file) else { return Map::new() };
    serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "not valid JSON, left out");
        Map::new()
    })
}

/// A field of the right type; others (null, a newer spelling) count as absent.
fn field<T: serde::de::DeserializeOwned>(object: &Map<String, Value>, name: &str) -> Option<T> {
    serde_json::from_value(object.get(name)?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::adapter::EosTokens;

    #[test]
    fn sampling_fields_and_all_ends_of_text_are_read_and_lengths_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("config.json", r#"{"eos_token_id": 9}"#);
        assert_eq!(read(folder.path()).eos_token_id, Some(EosTokens::One(9)));
        write(
            "generation_config.json",
            r#"{"eos_token_id": [1, 2], "temperature": 0.5, "top_k": null, "do_sample": true, "max_length": 20, "num_beams": 3}"#,
        );
        let defaults = read(folder.path());
        assert_eq!(defaults.eos_token_id, Some(EosTokens::Several(vec![1, 2])));
        assert_eq!((defaults.temperature, defaults.top_k, defaults.do_sample), (Some(0.5), None, Some(true)));
        assert_eq!((defaults.max_new_tokens, defaults.num_beams), (None, None));
    }
}
