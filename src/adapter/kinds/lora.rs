//! LoRA, rsLoRA and DoRA: PEFT's `LoraLayer.update_layer`, `Linear.forward` and `Embedding.forward`.

use candle_core::{DType, Tensor};

use super::dora;
use crate::adapter::draft::Draft;
use crate::adapter::peft::modules::{Module, Place};
use crate::adapter::tensors::TensorFile;
use crate::adapter::{AdapterError, EmbeddingPatch, EmbeddingSite, LowRank, SiteId};
use crate::device::Weight;

/// What the configuration says of one targeted module.
#[derive(Clone, Debug)]
pub(in crate::adapter) struct Settings {
    pub(in crate::adapter) rank: usize,
    /// alpha/rank, or alpha/√rank with rsLoRA.
    pub(in crate::adapter) scale: f32,
    pub(in crate::adapter) dora: bool,
    /// `lora_bias`: B has a bias, which is scaled like B.
    pub(in crate::adapter) bias: bool,
}

/// Takes the tensors of the targeted modules.
pub(in crate::adapter) fn read(
    targets: &[(&Module, Settings)],
    file: &mut TensorFile<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    let needed: Vec<String> = targets.iter().flat_map(|(module, settings)| needed(module, settings)).collect();
    file.require(&needed)?;
    for (module, settings) in targets {
        let key = |part: &str| format!("base_model.model.{}.{part}", module.name);
        match module.place {
            Place::Linear(site) => linear(site, &key, settings, file, draft)?,
            Place::Embedding => {
                let begun = draft.embedding.take();
                draft.embedding = Some(embedding(&draft.map.embedding, begun, &key, settings, file)?);
            }
            Place::Positions => {
                if let Some(site) = &draft.map.positions {
                    let begun = draft.positions.take();
                    draft.positions = Some(embedding(site, begun, &key, settings, file)?);
                }
            }
            Place::Frozen(_) | Place::Head => {
                return Err(AdapterError::unsupported(format!("LoRA on {} cannot be applied", module.name)));
            }
        }
    }
    Ok(())
}

fn needed(module: &Module, settings: &Settings) -> Vec<String> {
    let parts: &[&str] = match module.place {
        Place::Linear(_) => &["lora_A.weight", "lora_B.weight"],
        Place::Embedding | Place::Positions => &["lora_embedding_A", "lora_embedding_B"],
        Place::Frozen(_) | Place::Head => &[],
    };
    let bias = settings.bias.then_some("lora_B.bias").filter(|_| matches!(module.place, Place::Linear(_)));
    parts.iter().copied().chain(bias).map(|part| format!("base_model.model.{}.{part}", module.name)).collect()
}

fn linear(
    site: SiteId,
    key: &dyn Fn(&str) -> String,
    settings: &Settings,
    file: &mut TensorFile<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    let entry = &draft.map.linears[site.0];
    let (inputs, outputs, rank) = (entry.inputs(), entry.outputs(), settings.rank);
    let a = file.need(&key("lora_A.weight"))?;
    let a = a.tensor(&[rank, inputs], &format!("r = {rank}, {inputs} inputs"))?; // [rank, in]
    let b = file.need(&key("lora_B.weight"))?;
    let b = b.tensor(&[outputs, rank], &format!("{outputs} outputs, r = {rank}"))?; // [out, rank]
    let low_rank = LowRank { a, b, scale: settings.scale };

    let begun = draft.patch(site);
    let output_scale = if settings.dora {
        let magnitude = magnitude(key, file, outputs)?;
        let own = begun.and_then(|patch| patch.weight.clone()).map(Weight::from);
        let weight = own.as_ref().unwrap_or(&entry.weight);
        Some(dora::linear_scale(weight, &low_rank, &magnitude, &key("lora_magnitude_vector"))?)
    } else {
        None
    };
    let bias = if settings.bias {
        let added = file.need(&key("lora_B.bias"))?.widened(&[outputs], &format!("{outputs} outputs"))?;
        let added = (added * f64::from(settings.scale))?; // [out]
        let base = begun.and_then(|patch| patch.bias.as_ref()).or(entry.bias.as_ref());
        Some(match base {
            Some(base) => (on_cpu(base)? + added)?,
            None => added,
        })
    } else {
        None
    };
    let patch = draft.patch_mut(site);
    patch.low_rank = Some(low_rank);
    patch.output_scale = output_scale;
    if bias.is_some() {
        patch.bias = bias;
    }
    Ok(())
}

fn embedding(
    site: &EmbeddingSite,
    begun: Option<EmbeddingPatch>,
    key: &dyn Fn(&str) -> String,
    settings: &Settings,
    file: &mut TensorFile<'_>,
) -> Result<EmbeddingPatch, AdapterError> {
    if settings.bias {
        // PEFT itself refuses to build this.
        return Err(AdapterError::invalid(format!("lora_bias cannot be used on the embedding {}", site.module)));
    }
    let &[rows, hidden] = site.weight.dims() else {
        return Err(AdapterError::invalid(format!("{} has shape {:?}", site.module, site.weight.dims())));
    };
    let rank = settings.rank;
    let a = file.need(&key("lora_embedding_A"))?;
    let a = a.tensor(&[rank, rows], &format!("r = {rank}, {rows} rows in {}", site.module))?.t()?.contiguous()?; // [rows, rank]
    let b = file.need(&key("lora_embedding_B"))?;
    let b = b.tensor(&[hidden, rank], &format!("hidden size {hidden}, r = {rank}"))?; // [hidden, rank]
    let low_rank = LowRank { a, b, scale: settings.scale };
    let mut patch = begun.unwrap_or_default();
    if settings.dora {
        let magnitude = magnitude(key, file, hidden)?;
        let own = patch.weight.clone().map(Weight::from);
        let weight = own.as_ref().unwrap_or(&site.weight);
        patch.output_scale = Some(dora::embedding_scale(weight, &low_rank, &magnitude, &key("lora_magnitude_vector"))?);
    }
    patch.low_rank = Some(low_rank);
    Ok(patch)
}

/// DoRA's m. PEFT strips `.weight` when it saves; files made around it may not.
fn magnitude(key: &dyn Fn(&str) -> String, file: &mut TensorFile<'_>, width: usize) -> Result<Tensor, AdapterError> {
    let view = match file.take(&key("lora_magnitude_vector.weight")) {
        Some(view) => view,
        None => file.need(&key("lora_magnitude_vector"))?,
    };
    view.widened(&[width], &format!("{width} outputs"))
}

fn on_cpu(tensor: &Tensor) -> Result<Tensor, AdapterError> {
    Ok(tensor.to_device(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?)
}
