//! What is read from adapters as PEFT and ruprompts save them (tests/fixtures/adapters), and from smaller ones made by hand.

// Helpers of tests may unwrap as tests do; clippy's own exception knows `#[test]` functions only.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{DType, Tensor};
use repertoire::adapter::{
    Adapter, AdapterError, EosTokens, GenerationDefaults, Kind, LinearPatch, Metadata, SiteMap, TaskKind, TokenCounter,
};
use repertoire::text::Tokenizer;
use serde_json::{Value, json};

use crate::adapter_bases::{BERT, GPT2, LIMITS, LLAMA, Made, against, altered, base, fixtures, model, package};

const BASES: [&str; 9] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "gpt2", "gpt2st", "bert", "bert-old"];

#[test]
fn every_fixture_reads_with_its_kind_task_and_labels() {
    let mut count = 0;
    for name in BASES {
        let golden = std::fs::read(fixtures().join(format!("golden/{name}.json"))).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let sites = with_tokenizer(name, model(name).sites());
        for entry in golden["entries"].as_array().unwrap() {
            let Some(folder) = entry["adapter"].as_str() else { continue };
            let metadata: Metadata = serde_json::from_value(entry["metadata"].clone()).unwrap();
            let adapter = against(&package(name, folder, metadata.clone()), &sites)
                .unwrap_or_else(|error| panic!("{name}/{folder}: {error}"));
            let kind = if adapter.kind == Kind::Dora { "lora".into() } else { adapter.kind.to_string() };
            assert_eq!(entry["kind"], kind, "{name}/{folder}");
            assert_eq!(metadata.task, Some(adapter.task), "{name}/{folder}");
            assert_eq!(metadata.labels, adapter.head.map(|head| head.labels), "{name}/{folder}");
            count += 1;
        }
    }
    assert!(count > 120, "{count} fixtures");
}

fn with_tokenizer(name: &str, sites: &Arc<SiteMap>) -> Arc<SiteMap> {
    let tokenizer = Tokenizer::from_folder(&fixtures().join("bases").join(name)).unwrap();
    let count = move |text: &str| Some(tokenizer.encode(text, true).ok()?.len());
    altered(sites, |map| map.count_tokens = Some(TokenCounter(Arc::new(count))))
}

fn read(name: &str, folder: &str) -> Result<Adapter, AdapterError> {
    Adapter::read(&package(name, folder, Metadata::default()), &[base(name)], &LIMITS)
}

/// The patch of the site named `module`.
fn patch<'a>(adapter: &'a Adapter, map: &SiteMap, module: &str) -> &'a LinearPatch {
    let site = map.linears.iter().position(|entry| entry.module == module).unwrap();
    adapter.patches[site].as_ref().unwrap()
}

#[test]
fn matrices_keep_the_dtype_of_their_file_and_its_size() {
    let made = Made::lora().halved();
    let adapter = made.read(&LLAMA).unwrap();
    assert!(adapter.tensors().all(|tensor| tensor.dtype() == DType::F16));
    assert_eq!(adapter.bytes(), made.tensors.values().map(|(_, _, bytes)| bytes.len()).sum::<usize>());
    assert_eq!((adapter.rank, adapter.parameters()), (2, 256));
    assert_eq!(adapter.digest, made.package().digest());
}

#[test]
fn the_first_pattern_in_file_order_gives_rank_and_alpha() {
    let made = Made::lora()
        .set("rank_pattern", json!({"layers.0.self_attn.q_proj": 3, "q_proj": 2}))
        .set("alpha_pattern", json!({"q_proj": 6, "model.layers.1.self_attn.q_proj": 9}))
        .with("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", &[3, 32])
        .with("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", &[32, 3]);
    let adapter = made.read(&LLAMA).unwrap();
    let scale = |module| patch(&adapter, &LLAMA, module).low_rank.as_ref().unwrap().scale;
    assert_eq!(scale("model.layers.0.self_attn.q_proj"), 2.0);
    assert_eq!(scale("model.layers.1.self_attn.q_proj"), 3.0);
}

#[test]
fn rank_stabilised_lora_divides_by_the_root() {
    let adapter = Made::lora().set("use_rslora", json!(true)).read(&LLAMA).unwrap();
    let scale = adapter.patches.iter().flatten().next().unwrap().low_rank.as_ref().unwrap().scale;
    assert_eq!(scale, (4.0 / 2f64.sqrt()) as f32);
}

#[test]
fn absent_and_null_settings_mean_the_defaults_of_peft() {
    let config = json!({"peft_type": "LORA", "r": 2, "target_modules": null, "bias": null, "rank_pattern": null,
        "some_later_key": null, "another": false, "a_third": {}, "a_fourth": [], "a_fifth": ""});
    let mut made = Made::new(config);
    for layer in 0..2 {
        for projection in ["q_proj", "v_proj"] {
            let outputs = if projection == "q_proj" { 32 } else { 16 };
            let module = format!("base_model.model.model.layers.{layer}.self_attn.{projection}");
            made = made.with(&format!("{module}.lora_A.weight"), &[2, 32]);
            made = made.with(&format!("{module}.lora_B.weight"), &[outputs, 2]);
        }
    }
    let adapter = made.read(&LLAMA).unwrap();
    assert!(adapter.patches.iter().flatten().all(|patch| patch.low_rank.as_ref().unwrap().scale == 4.0));
    assert_eq!(adapter.task, TaskKind::Generate);
}

#[test]
fn an_adapter_of_the_bare_backbone_finds_its_modules() {
    let mut made = Made::lora().set("task_type", Value::Null);
    made.tensors =
        made.tensors.into_iter().map(|(name, t)| (name.replace("model.model.model.", "model.model."), t)).collect();
    let adapter = made.read(&LLAMA).unwrap();
    patch(&adapter, &LLAMA, "model.layers.1.self_attn.q_proj");
}

#[test]
fn a_bias_equal_to_the_base_is_dropped_and_another_replaces_it() {
    let name =
        |layer: usize| format!("base_model.model.bert.encoder.layer.{layer}.attention.self.query.base_layer.bias");
    let site = BERT.linears.iter().find(|e| e.module == "bert.encoder.layer.0.attention.self.query").unwrap();
    let bias = site.bias.as_ref().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
    let made = Made::bert().set("bias", json!("lora_only")).with_numbers(&name(0), &[32], &bias).with(&name(1), &[32]);
    let adapter = made.read(&BERT).unwrap();
    assert!(patch(&adapter, &BERT, "bert.encoder.layer.0.attention.self.query").bias.is_none());
    assert!(patch(&adapter, &BERT, "bert.encoder.layer.1.attention.self.query").bias.is_some());
}

#[test]
fn dora_scales_by_magnitude_over_the_norm_of_the_whole_row() {
    let mut made = Made::lora().set("use_dora", json!(true));
    for layer in 0..2 {
        made =
            made.with(&format!("base_model.model.model.layers.{layer}.self_attn.q_proj.lora_magnitude_vector"), &[32]);
    }
    let adapter = made.read(&LLAMA).unwrap();
    let module = "model.layers.1.self_attn.q_proj";
    let weight = &LLAMA.linears.iter().find(|entry| entry.module == module).unwrap().weight;
    let weight = weight.on_host().to_dtype(DType::F32).unwrap();
    let patch = patch(&adapter, &LLAMA, module);
    let low_rank = patch.low_rank.as_ref().unwrap();
    let sum = (weight + (low_rank.b.matmul(&low_rank.a).unwrap() * f64::from(low_rank.scale)).unwrap()).unwrap();
    let norm = sum.sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector";
    let magnitude: Vec<f32> =
        made.tensors[name].2.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let expected =
        (Tensor::new(magnitude, &candle_core::Device::Cpu).unwrap() / norm).unwrap().to_vec1::<f32>().unwrap();
    for (ours, theirs) in patch.output_scale.as_ref().unwrap().to_vec1::<f32>().unwrap().iter().zip(expected) {
        assert!((ours - theirs).abs() < 1e-5);
    }
    assert_eq!(adapter.kind, Kind::Dora);
}

#[test]
fn a_saved_copy_of_the_embedding_is_dropped_and_another_stands_for_both_ends_of_a_tied_base() {
    let name = "base_model.model.model.embed_tokens.weight";
    let copy = LLAMA.embedding.weight.on_host().to_dtype(DType::F32).unwrap();
    let numbers = copy.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let adapter = Made::lora().with_numbers(name, &[317, 32], &numbers).read(&LLAMA).unwrap();
    assert!(adapter.embedding.is_none());

    let adapter = Made::lora().with(name, &[317, 32]).read(&LLAMA).unwrap();
    assert!(adapter.embedding.as_ref().unwrap().weight.is_some());
    assert!(patch(&adapter, &LLAMA, "lm_head").weight.is_some());

    // A module to save is a copy of its own, tied or not.
    let made = Made::lora().set("modules_to_save", json!(["embed_tokens", "embed_tokens", "nowhere"]));
    let adapter = made.with(name, &[317, 32]).read(&LLAMA).unwrap();
    assert!(adapter.embedding.unwrap().weight.is_some());
    assert!(adapter.patches.iter().flatten().all(|patch| patch.weight.is_none()));
}

#[test]
fn a_head_has_default_labels_and_keeps_names_of_wrapped_modules_apart() {
    let mut made = Made::bert();
    let weight = made.tensors.remove("base_model.model.classifier.weight").unwrap();
    made.tensors.insert("base_model.model.classifier.modules_to_save.default.weight".into(), weight);
    let made = made.with("base_model.model.classifier.original_module.weight", &[7, 7]);
    let adapter = made.read(&BERT).unwrap();
    assert_eq!(adapter.head.unwrap().labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
    assert_eq!(adapter.task, TaskKind::Classify);
}

#[test]
fn prompts_of_ruprompts_bring_the_settings_of_their_pipelines() {
    let adapter = read("gpt2", "ruprompts-prefix").unwrap();
    let expected = GenerationDefaults {
        max_new_tokens: Some(100),
        do_sample: Some(true),
        top_k: Some(50),
        return_full_text: Some(true),
        eos_token_id: Some(EosTokens::One(0)),
        ..GenerationDefaults::default()
    };
    assert_eq!(adapter.generation, expected);
    assert_eq!(adapter.prompt_format.as_deref(), Some("<|P|><|P|><|P|><|P|><|P|>"));
    let rows = adapter.virtual_tokens.unwrap();
    assert_eq!((rows.count(), rows.leading), (5, false));

    let told = GenerationDefaults { do_sample: Some(false), num_beams: Some(5), ..GenerationDefaults::default() };
    let metadata = Metadata { generation: Some(told), ..Metadata::default() };
    let adapter = against(&package("gpt2", "ruprompts-text", metadata), &GPT2).unwrap();
    assert_eq!(adapter.generation.do_sample, Some(false));
    assert_eq!(adapter.generation.num_beams, Some(5));
    assert_eq!(adapter.generation.return_full_text, Some(false));
    assert_eq!(adapter.prompt_format.as_deref(), Some("<|P|><|P|><|P|><|P|>{text}<|P|><|P|>"));
}

#[test]
fn settings_and_format_of_the_metadata_are_kept_as_they_are() {
    let mut made = Made::lora();
    made.metadata =
        serde_json::from_value(json!({"prompt_format": "Q: {q}\nA:", "generation": {"top_k": 3}, "description": "d"}))
            .unwrap();
    let adapter = made.read(&LLAMA).unwrap();
    assert_eq!(adapter.prompt_format.as_deref(), Some("Q: {q}\nA:"));
    assert_eq!(adapter.generation.top_k, Some(3));
    assert_eq!(adapter.description.as_deref(), Some("d"));
}

#[test]
fn a_base_is_found_by_name_or_by_being_the_only_one_that_fits() {
    let bases = [LLAMA.clone(), GPT2.clone(), BERT.clone()];
    let read = |made: &Made| Adapter::read(&made.package(), &bases, &LIMITS).map(|adapter| adapter.base);
    assert_eq!(read(&Made::lora()).unwrap(), "llama");
    assert_eq!(read(&Made::bert()).unwrap(), "bert");
    assert_eq!(read(&Made::lora().set("base_model_name_or_path", json!("org/unknown"))).unwrap(), "llama");
    let twin = altered(&LLAMA, |map| {
        map.base = "twin".into();
        map.aliases = vec!["org/twin".into()];
    });
    let bases = [LLAMA.clone(), twin];
    let read = |made: &Made| Adapter::read(&made.package(), &bases, &LIMITS).map(|adapter| adapter.base);
    assert_eq!(read(&Made::lora().set("base_model_name_or_path", json!("org/twin"))).unwrap(), "twin");
    let mut made = Made::lora().set("base_model_name_or_path", json!("org/twin"));
    made.metadata.base = Some("llama".into());
    assert_eq!(read(&made).unwrap(), "llama");
    let error = read(&Made::lora()).unwrap_err().to_string();
    assert!(error.contains("more than one base (llama, twin)"), "{error}");
}

/// PEFT 0.21.2: `IA3Config(target_modules=["k_proj", "up_proj"])` on a Llama makes `ia3_l` of [16, 1] and [56, 1].
#[test]
fn default_feedforward_modules_need_not_be_among_the_targets_of_ia3() {
    let config = json!({"peft_type": "IA3", "task_type": "CAUSAL_LM", "target_modules": ["k_proj", "up_proj"],
        "feedforward_modules": null});
    let made = (0..2).fold(Made::new(config), |made, layer| {
        let module = format!("base_model.model.model.layers.{layer}");
        made.with(&format!("{module}.self_attn.k_proj.ia3_l"), &[16, 1])
            .with(&format!("{module}.mlp.up_proj.ia3_l"), &[56, 1])
    });
    let adapter = made.read(&LLAMA).unwrap();
    for module in ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj"] {
        let patch = patch(&adapter, &LLAMA, module);
        assert!(patch.rescale_output.is_some() && patch.rescale_input.is_none());
    }
}
