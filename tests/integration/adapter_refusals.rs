//! What cannot be applied exactly is refused by name, with both numbers where there are two.

// Helpers of tests may unwrap as tests do; clippy's own exception knows `#[test]` functions only.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use repertoire::adapter::{Adapter, AdapterError, Metadata, Package, SiteMap};
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::adapter_bases::{BERT, GPT2, LIMITS, LLAMA, Made, against, altered, package, refused};

const UNSUPPORTED: bool = true;
const INVALID: bool = false;
const Q0: &str = "base_model.model.model.layers.0.self_attn.q_proj";

#[test]
fn settings_that_change_what_is_computed() {
    for (key, value) in [
        ("peft_type", json!("ADALORA")),
        ("peft_type", json!("MULTITASK_PROMPT_TUNING")),
        ("task_type", json!("TOKEN_CLS")),
        ("task_type", json!("FEATURE_EXTRACTION")),
        ("target_parameters", json!(["experts.weight"])),
        ("layer_replication", json!([[0, 1], [0, 1]])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("megatron_config", json!({"x": 1})),
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"nblocks": 2})),
        ("arrow_config", json!({"top_k": 3})),
        ("kasa_config", json!({"beta": 1e-4})),
        ("monteclora_config", json!({"num_samples": 8})),
        ("velora_config", json!({"num_groups": 64})),
        ("trainable_token_indices", json!([1, 2, 3])),
        ("ensure_weight_tying", json!(true)),
        ("a_key_from_the_future", json!(3)),
        ("a_key_from_the_future", json!(true)),
    ] {
        let shown = value.as_str().unwrap_or(key).to_owned();
        refused(Made::lora().set(key, value).read(&LLAMA), UNSUPPORTED, &[key, &shown]);
    }
    for init in ["pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga", "mica"] {
        let made = Made::lora().set("init_lora_weights", json!(init));
        refused(made.read(&LLAMA), UNSUPPORTED, &["init_lora_weights", init]);
    }
    for init in [json!(true), json!(false), json!("gaussian"), json!("eva"), json!("orthogonal")] {
        Made::lora().set("init_lora_weights", init).read(&LLAMA).unwrap();
    }
}

#[test]
fn settings_that_make_no_sense() {
    for (key, value, words) in [
        ("peft_type", json!(7), "given 7"),
        ("peft_type", Value::Null, "no peft_type"),
        ("task_type", json!(["SEQ_CLS"]), "task_type must be text"),
        ("r", json!(0), "at least 1, given 0"),
        ("r", json!(-2), "given -2"),
        ("r", json!("many"), "whole number"),
        ("r", json!(3), "[3, 32]"),
        ("lora_alpha", json!("x"), "lora_alpha must be a number"),
        ("lora_alpha", json!(1e308), "too large"),
        ("rank_pattern", json!([1]), "rank_pattern"),
        ("rank_pattern", json!({"q_proj": "x"}), "rank_pattern"),
        ("alpha_pattern", json!({"q_proj": null}), "alpha_pattern"),
        ("use_dora", json!("yes"), "true or false"),
        ("target_modules", json!([]), "leave no module"),
        ("target_modules", json!(["query"]), "leave no module"),
        ("target_modules", json!(7), "target_modules"),
        ("target_modules", json!([7]), "target_modules"),
        ("exclude_modules", json!(["q_proj"]), "leave no module"),
        ("layers_to_transform", json!([7]), "leave no module"),
        ("layers_to_transform", json!("all"), "layers_to_transform"),
        ("layers_pattern", json!("layers"), "layers_pattern needs layers_to_transform"),
        ("bias", json!("some"), "none, all or lora_only"),
        ("modules_to_save", json!("lm_head"), "modules_to_save"),
        ("modules_to_save", json!(["lm_head"]), "lm_head.weight is missing"),
    ] {
        refused(Made::lora().set(key, value).read(&LLAMA), INVALID, &[words]);
    }
    let made = Made::lora().set("use_dora", json!(true)).set("lora_bias", json!(true));
    refused(made.read(&LLAMA), INVALID, &["lora_bias", "use_dora"]);
    let made = Made::lora().set("target_modules", json!(".*q_proj")).set("layers_to_transform", json!([0]));
    refused(made.read(&LLAMA), INVALID, &["layers_to_transform", "list of names"]);
    refused(Made::lora().set("use_dora", json!(true)).read(&LLAMA), INVALID, &["lora_magnitude_vector is missing"]);
    refused(Made::lora().set("lora_bias", json!(true)).read(&LLAMA), INVALID, &["lora_B.bias"]);
}

#[test]
fn a_rank_over_the_limit() {
    let made = Made::lora().set("r", json!(65));
    refused(made.read(&LLAMA), UNSUPPORTED, &["a rank may be 64, given 65"]);
}

#[test]
fn patterns_that_python_reads_otherwise_or_that_could_run_away() {
    for (pattern, why) in [
        (r"(?=.*q_proj).*", "look-around"),
        (r"(?!k).*q_proj", "look-around"),
        (r".*(?<=q)_proj", "look-around"),
        (r"(.*)\1q_proj", "backreferences"),
        (r"(?P<a>.*)(?P=a)q_proj", "backreferences"),
        (r"(a)?(?(1)b|c)", "conditional"),
        (r"(?>.*)q_proj", "atomic"),
        (r".*+q_proj", "possessive"),
        (r".*[a&&b]q_proj\p{L}", "escape"),
        (r"(?x) .* q_proj", "flags"),
        (r".*(q_proj", "cannot be used"),
        (r"((((.{99}){99}){99}){99}).*q_proj", "size limit"),
    ] {
        refused(Made::lora().set("target_modules", json!(pattern)).read(&LLAMA), UNSUPPORTED, &["target_modules", why]);
    }
    let long = "a".repeat(100_000);
    refused(Made::lora().set("target_modules", json!(long)).read(&LLAMA), UNSUPPORTED, &["16384 bytes, given 100000"]);
    let many: serde_json::Map<String, Value> = (0..5000).map(|i| (format!("k{i}"), json!(1))).collect();
    refused(Made::lora().set("rank_pattern", many.into()).read(&LLAMA), INVALID, &["4096 patterns", "given 5000"]);
    // Matching takes linear time: this one makes Python's `re` hang.
    let made = Made::lora().set("target_modules", json!(r"(.*)*(.*)*(.*)*(.*)*q_proj"));
    made.read(&LLAMA).unwrap();
}

#[test]
fn tensors_that_are_missing_left_over_or_misshapen() {
    let a = format!("{Q0}.lora_A.weight");
    refused(Made::lora().without(&a).read(&LLAMA), INVALID, &["does not have", &a]);
    let stray = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
    refused(Made::lora().with(stray, &[2, 32]).read(&LLAMA), UNSUPPORTED, &["no place", stray]);
    refused(
        Made::lora().with("model.norm.weight", &[32]).read(&LLAMA),
        UNSUPPORTED,
        &["no place", "model.norm.weight"],
    );
    refused(Made::lora().with(&a, &[2, 31]).read(&LLAMA), INVALID, &[&a, "[2, 31]", "[2, 32]"]);
    refused(Made::lora().with(&a, &[64]).read(&LLAMA), INVALID, &[&a, "[64]", "[2, 32]"]);
    let many = (0..40).fold(Made::lora(), |made, i| made.with(&format!("extra.{i:02}"), &[1]));
    refused(many.read(&LLAMA), UNSUPPORTED, &["extra.03 and 36 more"]);
    let raw = Made::lora().with(&format!("{Q0}.lora_A.default.weight"), &[2, 32]);
    refused(raw.read(&LLAMA), UNSUPPORTED, &["lora_A.default.weight"]);
    refused(Made::lora().with("base_model.model.score.weight", &[2, 32]).read(&LLAMA), UNSUPPORTED, &["score.weight"]);
    let resized = Made::lora().with("base_model.model.model.embed_tokens.weight", &[320, 32]);
    refused(resized.read(&LLAMA), INVALID, &["[320, 32]", "[317, 32]", "resized vocabulary"]);
}

#[test]
fn numbers_that_are_no_floats_or_not_finite() {
    let a = format!("{Q0}.lora_A.weight");
    for (dtype, width) in [(Dtype::F64, 8), (Dtype::I32, 4), (Dtype::U8, 1), (Dtype::I64, 8)] {
        let made = Made::lora().with_bytes(&a, dtype, &[2, 32], vec![0; 64 * width]);
        refused(made.read(&LLAMA), UNSUPPORTED, &[&a, &format!("{dtype:?}")]);
    }
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut numbers = vec![0.5; 64];
        numbers[63] = number;
        refused(Made::lora().with_numbers(&a, &[2, 32], &numbers).read(&LLAMA), INVALID, &[&a, "NaN or infinity"]);
        refused(
            Made::lora().with_numbers(&a, &[2, 32], &numbers).halved().read(&LLAMA),
            INVALID,
            &[&a, "NaN or infinity"],
        );
        let bytes = numbers.iter().flat_map(|n| half::bf16::from_f32(*n).to_le_bytes()).collect();
        refused(
            Made::lora().with_bytes(&a, Dtype::BF16, &[2, 32], bytes).read(&LLAMA),
            INVALID,
            &[&a, "NaN or infinity"],
        );
    }
}

#[test]
fn modules_that_cannot_be_saved_and_biases_that_cannot_change() {
    for name in ["norm", "input_layernorm", "q_proj", "mlp", "layers"] {
        let made = Made::lora().set("modules_to_save", json!([name])).set("target_modules", json!(["o_proj"]));
        refused(made.read(&LLAMA), UNSUPPORTED, &["modules_to_save covers", name]);
    }
    let norm = "base_model.model.bert.encoder.layer.0.output.LayerNorm.bias";
    let made = Made::bert().set("bias", json!("all")).with(norm, &[32]);
    refused(made.read(&BERT), UNSUPPORTED, &["bert.encoder.layer.0.output.LayerNorm", "differs"]);
    let made = Made::lora().set("bias", json!("lora_only")).with(&format!("{Q0}.base_layer.bias"), &[32]);
    refused(made.read(&LLAMA), UNSUPPORTED, &["no place", "q_proj.base_layer.bias"]);
    refused(Made::lora().with(&format!("{Q0}.base_layer.bias"), &[32]).read(&LLAMA), UNSUPPORTED, &["no place"]);
    let made = Made::bert().set("target_modules", json!(["LayerNorm"]));
    refused(made.read(&BERT), UNSUPPORTED, &["LoRA on", "LayerNorm"]);
}

#[test]
fn heads_that_do_not_fit() {
    let labelled = |labels: &[&str]| {
        let mut made = Made::bert();
        made.metadata.labels = Some(labels.iter().map(|label| (*label).to_owned()).collect());
        made
    };
    refused(labelled(&["a", "b"]).read(&BERT), INVALID, &["3 labels", "given 2"]);
    refused(labelled(&["a", "b", "a"]).read(&BERT), INVALID, &["\"a\" twice"]);
    refused(
        Made::bert().without("base_model.model.classifier.weight").read(&BERT),
        INVALID,
        &["no head", "classifier.weight"],
    );
    refused(
        Made::bert().without("base_model.model.classifier.bias").read(&BERT),
        INVALID,
        &["classifier.bias is missing"],
    );
    refused(
        Made::bert().with("base_model.model.classifier.weight", &[3, 31]).read(&BERT),
        INVALID,
        &["[3, 31]", "[3, 32]"],
    );
    refused(Made::bert().with("base_model.model.classifier.weight", &[96]).read(&BERT), INVALID, &["two dimensions"]);
    refused(Made::bert().with("base_model.model.classifier.weight", &[0, 32]).read(&BERT), INVALID, &["no rows"]);
    refused(Made::bert().with("base_model.model.classifier.bias", &[4]).read(&BERT), INVALID, &["[4]", "[3]"]);
    refused(
        Made::bert().set("task_type", json!("CAUSAL_LM")).read(&BERT),
        UNSUPPORTED,
        &["encoder", "cannot generate"],
    );
    let bare = altered(&BERT, |map| map.missing_pooler = true);
    refused(Made::bert().read(&bare), UNSUPPORTED, &["no pooler weights"]);

    let told = |made: Made, metadata: Value| Made { metadata: serde_json::from_value(metadata).unwrap(), ..made };
    refused(
        told(Made::bert(), json!({"task": "generate"})).read(&BERT),
        INVALID,
        &["metadata.task is generate", "SEQ_CLS"],
    );
    refused(
        told(Made::lora(), json!({"task": "classify"})).read(&LLAMA),
        INVALID,
        &["metadata.task is classify", "CAUSAL_LM"],
    );
    refused(told(Made::lora(), json!({"labels": ["a"]})).read(&LLAMA), INVALID, &["labels", "generates text"]);
    let untold = Made::lora().set("task_type", Value::Null);
    refused(told(untold, json!({"task": "classify"})).read(&LLAMA), INVALID, &["no head", "score.weight"]);
}

#[test]
fn vectors_of_ia3_on_the_wrong_side() {
    let config = json!({"peft_type": "IA3", "task_type": "CAUSAL_LM", "target_modules": ["down_proj"], "feedforward_modules": []});
    let made = (0..2).fold(Made::new(config), |made, layer| {
        made.with(&format!("base_model.model.model.layers.{layer}.mlp.down_proj.ia3_l"), &[1, 56])
    });
    refused(made.read(&LLAMA), INVALID, &["[1, 56]", "[32, 1]", "not feed-forward"]);
    let made = made.set("feedforward_modules", json!(["down_proj"]));
    made.read(&LLAMA).unwrap();
    refused(
        made.clone().set("feedforward_modules", json!(["up_proj"])).read(&LLAMA),
        INVALID,
        &["among target_modules", "up_proj"],
    );
    refused(
        made.set("target_modules", json!(["embed_tokens"])).set("feedforward_modules", json!([])).read(&LLAMA),
        UNSUPPORTED,
        &["IA3 on model.embed_tokens"],
    );
}

#[test]
fn prompts_and_prefixes_of_another_shape() {
    for (key, value, words) in [
        ("num_virtual_tokens", json!(5), "[5, 32]"),
        ("num_virtual_tokens", json!(0), "at least 1"),
        ("num_virtual_tokens", Value::Null, "at least 1"),
        ("num_virtual_tokens", json!(256), "which is 256, given 256"),
        ("token_dim", json!(64), "token_dim must be 32 for base llama, given 64"),
        ("num_layers", json!(3), "num_layers must be 2 for base llama, given 3"),
        ("num_transformer_submodules", json!(2), "num_transformer_submodules must be 1"),
    ] {
        refused(Made::prompt().set(key, value).read(&LLAMA), INVALID, &[words]);
    }
    refused(Made::prompt().without("prompt_embeddings").read(&LLAMA), INVALID, &["prompt_embeddings is missing"]);
    let prefix = Made::prompt().set("peft_type", json!("PREFIX_TUNING"));
    refused(prefix.read(&LLAMA), INVALID, &["[4, 32]", "[4, 64]", "2 layers"]);
    let prefix = prefix.with("prompt_embeddings", &[4, 64]);
    prefix.read(&LLAMA).unwrap();
    refused(prefix.clone().set("token_dim", json!(32)).read(&LLAMA), INVALID, &["token_dim must be 16", "given 32"]);
    refused(
        prefix.set("num_attention_heads", json!(4)).read(&LLAMA),
        INVALID,
        &["num_attention_heads must be 2", "given 4"],
    );
}

#[test]
fn bases_that_are_not_served() {
    let bases = [LLAMA.clone(), GPT2.clone()];
    let mut made = Made::lora();
    made.metadata.base = Some("qwen".into());
    refused(Adapter::read(&made.package(), &bases, &LIMITS), INVALID, &["\"qwen\"", "llama, gpt2"]);
    let made = Made::lora().set("base_model_name_or_path", json!("org/other")).set("target_modules", json!(["query"]));
    refused(Adapter::read(&made.package(), &bases, &LIMITS), INVALID, &["fits none", "llama:", "gpt2:", "org/other"]);
    refused(Adapter::read(&made.package(), &bases[..1], &LIMITS), INVALID, &["leave no module", "org/other"]);
    refused(Adapter::read(&made.package(), &[], &LIMITS), INVALID, &["no base is served"]);
}

fn of(files: &[(&str, &[u8])]) -> Result<Package, AdapterError> {
    Package::from_files(
        files.iter().map(|(name, bytes)| (*name, bytes::Bytes::copy_from_slice(bytes))),
        Metadata::default(),
    )
}

#[test]
fn packages_that_are_not_whole() {
    for (files, unsupported, words) in [
        (
            &["adapter_model.safetensors", "README.md"][..],
            INVALID,
            "adapter_config.json is missing; files given: adapter_model.safetensors, README.md",
        ),
        (&[], INVALID, "adapter_config.json is missing; files given: none"),
        (&["README.md"], INVALID, "files given: README.md"),
        (&["adapter_config.json"], INVALID, "adapter_model.safetensors is missing"),
        (&["prompt.json"], INVALID, "prompt_provider.bin is missing"),
        (&["prompt_provider.bin"], INVALID, "prompt.json is missing"),
        (&["adapter_config.json", "prompt.json"], INVALID, "two adapters"),
        (&["adapter_config.json", "adapter_model.bin"], UNSUPPORTED, "adapter_model.bin is a pickle"),
        (&["adapter_config.json", "a/adapter_config.json"], INVALID, "adapter_config.json is given twice"),
        (&["../adapter_config.json"], INVALID, "not a file's path"),
        (&["/adapter_config.json"], INVALID, "not a file's path"),
        (&["a\\adapter_config.json"], INVALID, "not a file's path"),
    ] {
        let files: Vec<(&str, &[u8])> = files.iter().map(|name| (*name, &b"{}"[..])).collect();
        let error = of(&files).map(|package| package.files).unwrap_err();
        assert_eq!(matches!(error, AdapterError::Unsupported(_)), unsupported, "{error}");
        assert!(error.to_string().contains(words), "{words:?} is not in {error}");
    }
    let whole = of(&[
        ("x/adapter_config.json", b"{}"),
        ("x/adapter_model.safetensors", b""),
        ("x/adapter_model.bin", b""),
        ("x/README.md", b""),
    ]);
    assert_eq!(
        whole.unwrap().files.into_keys().collect::<Vec<_>>(),
        ["adapter_config.json", "adapter_model.safetensors"]
    );
    refused(against(&Package::default(), &LLAMA), INVALID, &["adapter_config.json is missing"]);
    for config in [&b"not json"[..], b"[]", b"\"LORA\"", b"", b"{\"peft_type\": NaN}"] {
        let package = of(&[("adapter_config.json", config), ("adapter_model.safetensors", b"")]).unwrap();
        refused(against(&package, &LLAMA), INVALID, &["not a JSON object"]);
    }
}

#[test]
fn prompts_of_ruprompts_that_contradict_themselves() {
    let read = |prompt: Value, base: &Arc<SiteMap>, metadata: Metadata| {
        let mut package = package("gpt2", "ruprompts-text", metadata);
        package.files.insert("prompt.json".into(), prompt.to_string().into_bytes().into());
        against(&package, base)
    };
    for (prompt, unsupported, words) in [
        (json!({}), INVALID, "missing field `format`"),
        (json!({"format": {}}), INVALID, "neither compiled_template nor template"),
        (json!({"format": {"compiled_template": "<|P|>{text}"}}), INVALID, "has 1 prompt tokens"),
        (json!({"format": {"template": "<P*7>{text}"}}), INVALID, "more prompt tokens than the 6 rows"),
        (json!({"format": {"template": "<P*99999999999999999999999>{text}"}}), INVALID, "repeats too often"),
        (json!({"format": {"template": "<P*5>{text}"}}), INVALID, "has 5 prompt tokens"),
        (json!({"format": {"template": "<P>a b</P>{text}<P>c d</P>"}}), UNSUPPORTED, "<P>a b</P>"),
        (json!({"format": {"template": "<P*6>", "init": "x"}}), UNSUPPORTED, "\"init\""),
        (json!({"format": {"template": "<P*6>"}, "extra": 1}), UNSUPPORTED, "\"extra\""),
        (json!({"format": {"template": "<P*6>"}, "config": {"prompt_length": 7}}), INVALID, "prompt_length = 7"),
        (json!({"format": {"template": "<P*6>"}, "config": {"embedding_dim": 7}}), INVALID, "embedding_dim = 7"),
    ] {
        refused(read(prompt, &GPT2, Metadata::default()), unsupported, &[words]);
    }
    let whole = json!({"format": {"template": "<P*4>{text}<P><P>"}});
    assert_eq!(
        read(whole.clone(), &GPT2, Metadata::default()).unwrap().prompt_format.unwrap(),
        "<|P|><|P|><|P|><|P|>{text}<|P|><|P|>"
    );
    // One literal takes the rows that are left.
    let literal = json!({"format": {"template": "<P*2>{text}<P>as many as there are</P>"}});
    assert_eq!(
        read(literal, &GPT2, Metadata::default()).unwrap().prompt_format.unwrap(),
        "<|P|><|P|>{text}<|P|><|P|><|P|><|P|>"
    );
    let classify = serde_json::from_value(json!({"task": "classify"})).unwrap();
    refused(read(whole.clone(), &GPT2, classify), INVALID, &["metadata.task is classify"]);
    refused(read(whole.clone(), &BERT, Metadata::default()), UNSUPPORTED, &["encoder"]);
    let narrow = altered(&GPT2, |map| map.hidden = 48);
    refused(read(whole.clone(), &narrow, Metadata::default()), INVALID, &["rows of 32", "is 48"]);
    let short = altered(&GPT2, |map| map.context = 6);
    refused(read(whole, &short, Metadata::default()), INVALID, &["which is 6, given 6 rows"]);
}
