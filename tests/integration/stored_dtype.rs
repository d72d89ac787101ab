//! Adapters saved in f16 or bf16 are held as saved, and answer as PEFT does, which widens them to f32 when it loads them.

// Helpers of tests may unwrap as tests do; clippy's own exception knows `#[test]` functions only.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::DType;
use half::{bf16, f16};
use repertoire::adapter::{Adapter, Lease, LeaseCount, Metadata, Package};
use repertoire::engine::Work;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::adapter_bases::{against, package};
use crate::golden::case::{Golden, hear};

const WEIGHTS: &str = "adapter_model.safetensors";

fn numbers(view: &TensorView<'_>) -> Vec<f32> {
    match view.dtype() {
        Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::F16 => view.data().chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        other => panic!("{other:?}"),
    }
}

/// The package with its numbers rounded to `rounded` and saved as `saved`, and the bytes of its tensors then.
fn resaved(package: &Package, rounded: Dtype, saved: Dtype) -> (Package, usize) {
    let file = SafeTensors::deserialize(&package.files[WEIGHTS]).unwrap();
    let round = |n: f32| match rounded {
        Dtype::F16 => f16::from_f32(n).to_f32(),
        Dtype::BF16 => bf16::from_f32(n).to_f32(),
        _ => n,
    };
    let bytes = |n: f32| match saved {
        Dtype::F16 => f16::from_f32(n).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f32(n).to_le_bytes().to_vec(),
        _ => n.to_le_bytes().to_vec(),
    };
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .iter()
        .map(|(name, view)| {
            let data = numbers(view).into_iter().flat_map(|n| bytes(round(n))).collect();
            (name.clone(), view.shape().to_vec(), data)
        })
        .collect();
    let size = tensors.iter().map(|(_, _, data)| data.len()).sum();
    let views = tensors.iter().map(|(n, shape, data)| (n, TensorView::new(saved, shape.clone(), data).unwrap()));
    let mut package = package.clone();
    package.files.insert(WEIGHTS.into(), safetensors::serialize(views, None).unwrap().into());
    (package, size)
}

/// Every adapter of a base's golden file that PEFT saved, with its first case.
fn peft_entries(golden: &Golden, base: &str) -> Vec<(Value, Value, Package)> {
    let mut out = vec![];
    for entry in golden.entries() {
        let Some(name) = entry["adapter"].as_str() else { continue };
        let metadata: Metadata = serde_json::from_value(entry["metadata"].clone()).unwrap();
        let package = package(base, name, metadata);
        let case = entry["generate"].get(0).or(entry["classify"].get(0)).unwrap().clone();
        if package.files.contains_key(WEIGHTS) {
            out.push((entry, case, package));
        }
    }
    out
}

async fn check(base: &str) {
    let golden = Golden::open(base);
    for (entry, case, package) in peft_entries(&golden, base) {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let mut answers = vec![];
            for saved in [dtype, Dtype::F32] {
                let (package, size) = resaved(&package, dtype, saved);
                let adapter = against(&package, golden.sites()).unwrap();
                check_size(&entry, &adapter, size);
                let lease = Lease::new(Arc::new(adapter), LeaseCount::default());
                let mut request = golden.request(&case, Some(&lease));
                if entry["classify"].is_array() {
                    request.work = Work::Classify;
                }
                answers.push(hear(golden.engine().submit(request).unwrap()).await);
            }
            assert_eq!(answers[0], answers[1], "{base} {} {dtype:?}", entry["adapter"]);
        }
    }
}

/// What the file holds takes its bytes there; f32 comes on top only where reading computes: one number per output for
/// DoRA's scales, and for biases that LoRA's are added to.
fn check_size(entry: &Value, adapter: &Adapter, saved: usize) {
    let embeddings = adapter.embedding.iter().chain(&adapter.positions).filter_map(|patch| patch.output_scale.as_ref());
    let linears = adapter.patches.iter().flatten();
    let computed = linears.flat_map(|patch| [&patch.output_scale, &patch.bias]).flatten().chain(embeddings);
    let computed: usize = computed.filter(|t| t.dtype() == DType::F32).map(|t| 4 * t.elem_count()).sum();
    let held = adapter.bytes();
    assert!(held <= saved + computed, "{} takes {held} bytes, saved in {saved}", entry["adapter"]);
}

#[tokio::test]
async fn llama_adapters_answer_with_the_bits_of_the_same_numbers_in_f32() {
    check("llama").await;
}

#[tokio::test]
async fn gpt2_adapters_answer_with_the_bits_of_the_same_numbers_in_f32() {
    check("gpt2").await;
}

#[tokio::test]
async fn bert_adapters_answer_with_the_bits_of_the_same_numbers_in_f32() {
    check("bert").await;
}
