//! Expected numbers are those of transformers 5.23: `LlamaConfig.from_dict(..)` and the others, `rotary_emb.inv_freq`.

use serde_json::{Value, json};

use super::ModelConfig;
use crate::model::load::LoadError;

/// A small configuration with `changes` in it.
fn read(family: &str, changes: Value) -> Result<ModelConfig, LoadError> {
    let mut config = json!({"model_type": family, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64});
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    ModelConfig::from_json(config.as_object().unwrap())
}

#[track_caller]
fn turns(family: &str, changes: Value, expected: [f32; 4]) {
    let found = read(family, changes).unwrap().inverse_frequencies;
    for (found, expected) in found.iter().zip(expected) {
        assert!((found / expected - 1.0).abs() < 1e-6, "{found} against {expected}");
    }
    assert_eq!(found.len(), 4);
}

fn llama3() -> Value {
    json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0})
}

#[test]
fn llama3_without_an_original_context_takes_the_whole() {
    let changes = json!({"max_position_embeddings": 64, "rope_theta": 10000.0, "rope_scaling": llama3()});
    turns("llama", changes, [1.0, 0.013042256, 0.00125, 0.000125]);
    let changes = json!({"max_position_embeddings": 64, "rope_parameters": llama3()});
    turns("llama", changes, [1.0, 0.013042256, 0.00125, 0.000125]);
}

#[test]
fn an_original_context_beside_the_scaling_wins_over_the_one_in_it() {
    let mut scaling = llama3();
    scaling["original_max_position_embeddings"] = json!(32);
    let changes =
        json!({"max_position_embeddings": 64, "original_max_position_embeddings": 16, "rope_scaling": scaling});
    turns("llama", changes, [0.576_056_36, 0.0125, 0.00125, 0.000125]);
}

#[test]
fn theta_is_found_inside_or_outside_of_the_parameters() {
    let expected = [1.0, 0.211_474_24, 0.044_721_36, 0.009_457_416];
    turns("llama", json!({"rope_theta": 500.0, "rope_parameters": {"rope_type": "default"}}), expected);
    turns("llama", json!({"rope_theta": 9.0, "rope_parameters": {"rope_theta": 500.0}}), expected);
    // transformers fails on a null; what it means is plain.
    turns("llama", json!({"rope_theta": 500.0, "rope_parameters": {"rope_theta": null}}), expected);
}

#[test]
fn the_older_spelling_wins_where_a_file_has_both() {
    let changes = json!({"rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
        "rope_scaling": {"rope_type": "linear", "factor": 2.0}});
    turns("llama", changes, [0.5, 0.105_737_12, 0.022_360_68, 0.004_728_708]);
    let changes = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}, "rope_scaling": {}});
    turns("llama", changes, [1.0, 0.240_281_15, 0.057_735_02, 0.013_872_638]);
}

#[test]
fn parameters_by_layer_type_are_refused() {
    let changes = json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}});
    let error = read("qwen3", changes).unwrap_err().to_string();
    assert!(error.contains("layer type"), "{error}");
}

#[test]
fn a_window_is_the_context_where_layers_slide() {
    let context = |family, changes| read(family, changes).unwrap().context;
    assert_eq!(context("mistral", json!({})), 4096);
    assert_eq!(context("mistral", json!({"sliding_window": null})), 131_072);
    assert_eq!(context("mistral", json!({"sliding_window": null, "max_position_embeddings": 512})), 512);
    assert_eq!(context("mistral", json!({"sliding_window": 128, "max_position_embeddings": 512})), 128);
    assert_eq!(context("llama", json!({"sliding_window": 128})), 2048);
    for family in ["qwen2", "qwen3"] {
        assert_eq!(context(family, json!({"sliding_window": 128})), 32_768);
        assert_eq!(context(family, json!({"sliding_window": 128, "use_sliding_window": true})), 32_768);
        assert_eq!(context(family, json!({"use_sliding_window": true, "max_window_layers": 1})), 4096);
        let kinds = json!({"use_sliding_window": true, "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"]});
        assert_eq!(context(family, kinds), 128);
    }
}

#[test]
fn key_value_heads_that_are_null_are_as_many_as_heads_and_absent_ones_the_default_of_the_family() {
    assert_eq!(read("mistral", json!({"num_key_value_heads": null})).unwrap().kv_heads, 4);
    let absent = json!({"model_type": "mistral", "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 16, "vocab_size": 64});
    assert_eq!(ModelConfig::from_json(absent.as_object().unwrap()).unwrap().kv_heads, 8);
}
