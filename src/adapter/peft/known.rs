//! The keys that `adapter_config.json` may have: those of PEFT 0.21's config classes, and what becomes of each.

use super::config::Method;

/// What becomes of the keys of one method.
pub(super) struct Known {
    /// Read, and followed.
    pub(super) read: &'static [&'static str],
    /// Cannot change what a trained adapter computes.
    pub(super) inert: &'static [&'static str],
    /// Refused unless null, false or empty, and why.
    pub(super) refused: &'static [(&'static str, &'static str)],
}

/// Keys of every method: read elsewhere, or without effect.
pub(super) const COMMON: &[&str] = &[
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "modules_to_save",
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
];

/// The keys of a method.
pub(super) fn of(method: Method) -> &'static Known {
    match method {
        Method::Lora => &LORA,
        Method::Ia3 => &IA3,
        Method::PromptTuning | Method::PTuning | Method::PrefixTuning => &PROMPT,
    }
}

const LORA: Known = Known {
    read: &[
        "r",
        "lora_alpha",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "bias",
        "lora_bias",
        "fan_in_fan_out",
        "init_lora_weights",
        "ensure_weight_tying",
    ],
    // Dropout acts in training only; the rest says how the weights were initialised or placed.
    inert: &[
        "lora_dropout",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "qalora_group_size",
        "runtime_config",
    ],
    refused: &[
        ("megatron_config", "layers of Megatron are not served"),
        ("trainable_token_indices", "rows of the embedding trained one by one are not applied"),
        ("target_parameters", "LoRA on bare parameters is not applied"),
        ("layer_replication", "a base with replicated layers is another base"),
        ("alora_invocation_tokens", "aLoRA switches itself on in the middle of a text"),
        ("use_qalora", "QA-LoRA pools its input"),
        ("use_bdlora", "BD-LoRA has block-diagonal matrices"),
        ("arrow_config", "Arrow routes between adapters"),
        ("kasa_config", "KaSA changes the base's weights"),
        ("monteclora_config", "MonteCLoRA samples its weights"),
        ("velora_config", "VeLoRA's variant of the layer is not applied"),
    ],
};

const IA3: Known = Known {
    read: &["target_modules", "exclude_modules", "feedforward_modules", "fan_in_fan_out"],
    inert: &["init_ia3_weights"],
    refused: &[],
};

const PROMPT: Known = Known {
    read: &["num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules"],
    // How the rows came about; what is saved is the rows themselves.
    inert: &[
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "tokenizer_name_or_path",
        "tokenizer_kwargs",
        "encoder_reparameterization_type",
        "encoder_hidden_size",
        "encoder_num_layers",
        "encoder_dropout",
        "prefix_projection",
        "init_weights",
    ],
    refused: &[],
};
