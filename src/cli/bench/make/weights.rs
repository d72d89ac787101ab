//! adapter_model.safetensors.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::DType;
use half::{bf16, f16};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::targets::Targeted;
use super::{Made, Make, Stored};
use crate::adapter::SiteMap;
use crate::device::Weight;

/// How far an adapter's numbers are from those that change nothing: enough to be seen, too little to spoil a text.
const SPREAD: f32 = 0.02;

/// A tensor under PEFT's name.
pub struct Named {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// For each targeted layer the norms of its weight's rows [out], from which DoRA starts.
pub fn magnitudes(targeted: &Targeted<'_>) -> Result<Vec<Vec<f32>>> {
    let norms = |weight: &Weight| -> candle_core::Result<Vec<f32>> {
        weight.rows(0, weight.dims()[0])?.to_dtype(DType::F32)?.sqr()?.sum(1)?.sqrt()?.to_vec1()
    };
    targeted.sites.iter().map(|entry| Ok(norms(&entry.weight)?)).collect()
}

/// The tensors of one adapter.
pub fn draw(
    make: &Make,
    map: &SiteMap,
    targeted: &Targeted<'_>,
    magnitudes: &[Vec<f32>],
    rng: &mut ChaCha8Rng,
) -> Vec<Named> {
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize], mut value: Box<dyn FnMut(usize, f32) -> f32 + '_>| {
        let values = (0..shape.iter().product()).map(|at| value(at, rng.random_range(-1.0..=1.0))).collect();
        tensors.push(Named { name, shape: shape.into(), values });
    };
    let around = |middle: f32, width: f32| -> Box<dyn FnMut(usize, f32) -> f32> {
        Box::new(move |_, random| middle + width * random)
    };
    for (index, entry) in targeted.sites.iter().enumerate() {
        let key = |part: &str| format!("base_model.model.{}.{part}", entry.module);
        let (inputs, outputs) = (entry.inputs(), entry.outputs());
        if make.kind == Made::Ia3 {
            let shape = if targeted.is_feedforward(entry) { [1, inputs] } else { [outputs, 1] };
            add(key("ia3_l"), &shape, around(1.0, SPREAD));
            continue;
        }
        add(key("lora_A.weight"), &[make.rank, inputs], around(0.0, (inputs as f32).sqrt().recip()));
        add(key("lora_B.weight"), &[outputs, make.rank], around(0.0, SPREAD));
        if let Some(norms) = magnitudes.get(index) {
            let near = Box::new(move |at: usize, random| norms[at] * (1.0 + SPREAD * random));
            add(key("lora_magnitude_vector"), &[outputs], near);
        }
    }
    match make.kind {
        Made::PromptTuning => add("prompt_embeddings".into(), &[make.virtual_tokens, map.hidden], around(0.0, SPREAD)),
        Made::PrefixTuning => {
            let shape = [make.virtual_tokens, map.layers * 2 * map.kv_dim()];
            add("prompt_embeddings".into(), &shape, around(0.0, SPREAD));
        }
        Made::Lora | Made::Dora | Made::Ia3 => {}
    }
    if let Some(labels) = make.labels {
        let wrapped = if targeted.sites.is_empty() { "base_model" } else { "base_model.model" };
        add(format!("{wrapped}.{}.weight", map.head), &[labels, map.hidden], around(0.0, SPREAD));
        // `classifier` is a linear layer with a bias in its families, `score` one without.
        if map.head == "classifier" {
            add(format!("{wrapped}.{}.bias", map.head), &[labels], around(0.0, SPREAD));
        }
    }
    tensors
}

/// The file's bytes.
pub fn serialize(tensors: &[Named], stored: Stored) -> Result<Vec<u8>> {
    let dtype = match stored {
        Stored::F32 => Dtype::F32,
        Stored::F16 => Dtype::F16,
        Stored::Bf16 => Dtype::BF16,
    };
    let bytes = |values: &[f32]| -> Vec<u8> {
        match stored {
            Stored::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Stored::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Stored::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        }
    };
    let contents: Vec<Vec<u8>> = tensors.iter().map(|tensor| bytes(&tensor.values)).collect();
    let views = tensors
        .iter()
        .zip(&contents)
        .map(|(tensor, content)| Ok((tensor.name.as_str(), TensorView::new(dtype, tensor.shape.clone(), content)?)));
    let views = views.collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize(views, Some(HashMap::from([("format".to_owned(), "pt".to_owned())])))?)
}
