//! `bias: lora_only` and `bias: all`: biases of the base that were trained along.

use super::config::Config;
use super::modules::{Module, Place};
use crate::adapter::draft::Draft;
use crate::adapter::same::same;
use crate::adapter::tensors::TensorFile;
use crate::adapter::{AdapterError, SiteId};

/// Takes the biases of linear sites that differ from the base's; others must equal the base's.
pub(super) fn read(
    config: &Config,
    modules: &[Module],
    file: &mut TensorFile<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    match config.text("bias")? {
        None | Some("none") => return Ok(()),
        Some("lora_only" | "all") => {}
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            return Err(AdapterError::invalid(format!("bias must be none, all or lora_only, given {other:?}")));
        }
    }
    for module in modules {
        // A wrapped module keeps its bias in `base_layer`.
        for suffix in ["base_layer.bias", "bias"] {
            let key = format!("base_model.model.{}.{suffix}", module.name);
            match module.place {
                Place::Linear(site) => linear(site, &key, file, draft)?,
                Place::Frozen(at) => frozen(at, &key, file, draft)?,
                Place::Embedding | Place::Positions | Place::Head => {}
            }
        }
    }
    if draft.map.family == "gpt2" {
        drop_masks(file);
    }
    Ok(())
}

fn linear(site: SiteId, key: &str, file: &mut TensorFile<'_>, draft: &mut Draft<'_>) -> Result<(), AdapterError> {
    let entry = &draft.map.linears[site.0];
    // A bias that the base lacks stays in the file and is refused with what is left over.
    let Some(base) = &entry.bias else { return Ok(()) };
    let Some(view) = file.take(key) else { return Ok(()) };
    let bias = view.tensor(&[entry.outputs()], &format!("{} outputs", entry.outputs()))?; // [out]
    if !same(&bias, base)? {
        draft.patch_mut(site).bias = Some(bias);
    }
    Ok(())
}

fn frozen(at: usize, key: &str, file: &mut TensorFile<'_>, draft: &Draft<'_>) -> Result<(), AdapterError> {
    let (name, parameters) = &draft.map.frozen[at];
    let Some((_, base)) = parameters.iter().find(|(suffix, _)| suffix == "bias") else { return Ok(()) };
    let Some(view) = file.take(key) else { return Ok(()) };
    let bias = view.tensor(base.dims(), "the base's shape")?;
    if same(&bias, base)? {
        return Ok(());
    }
    Err(AdapterError::unsupported(format!(
        "the bias of {name} differs from the base's, and only biases of linear layers can"
    )))
}

/// transformers 4 kept GPT-2's causal mask in a buffer named `attn.bias`, which `bias: all` saves along.
fn drop_masks(file: &mut TensorFile<'_>) {
    let masks: Vec<String> = file.names().filter(|name| name.ends_with(".attn.bias")).map(str::to_owned).collect();
    for mask in masks {
        file.take(&mask);
    }
}
