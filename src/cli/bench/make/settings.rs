//! adapter_config.json.

use serde_json::{Value, json};

use super::targets::Targeted;
use super::{Made, Make};
use crate::adapter::SiteMap;

/// What PEFT saves for such an adapter.
pub fn of(make: &Make, map: &SiteMap, targeted: &Targeted<'_>, base: &str) -> Value {
    let task = if make.labels.is_some() { "SEQ_CLS" } else { "CAUSAL_LM" };
    let saved = make.labels.map(|_| json!(["classifier", "score"]));
    let mut settings = json!({
        "base_model_name_or_path": base,
        "inference_mode": true,
        "modules_to_save": saved,
        "task_type": task,
    });
    let conv1d = targeted.sites.iter().any(|entry| entry.conv1d);
    let own = match make.kind {
        Made::Lora | Made::Dora => json!({
            "peft_type": "LORA",
            "r": make.rank,
            "lora_alpha": make.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_dora": make.kind == Made::Dora,
            "use_rslora": false,
            "fan_in_fan_out": conv1d,
            "target_modules": targeted.names(),
        }),
        Made::Ia3 => json!({
            "peft_type": "IA3",
            "fan_in_fan_out": conv1d,
            "target_modules": targeted.names(),
            "feedforward_modules": targeted.feedforward_names(),
        }),
        Made::PromptTuning => json!({
            "peft_type": "PROMPT_TUNING",
            "prompt_tuning_init": "RANDOM",
            "num_virtual_tokens": make.virtual_tokens,
            "token_dim": map.hidden,
            "num_layers": map.layers,
            "num_attention_heads": map.heads,
            "num_transformer_submodules": 1,
        }),
        Made::PrefixTuning => json!({
            "peft_type": "PREFIX_TUNING",
            "encoder_hidden_size": map.kv_dim(),
            "prefix_projection": false,
            "num_virtual_tokens": make.virtual_tokens,
            "token_dim": map.kv_dim(),
            "num_layers": map.layers,
            "num_attention_heads": map.kv_heads,
            "num_transformer_submodules": 1,
        }),
    };
    if let (Value::Object(settings), Value::Object(own)) = (&mut settings, own) {
        settings.extend(own);
    }
    settings
}
