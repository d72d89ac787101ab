//! `modules_to_save`, and weights of the base that PEFT saves along: PEFT's `_set_trainable` and `ModulesToSaveWrapper`.

use candle_core::Tensor;

use super::config::{Config, Method};
use super::modules::{Module, Place};
use super::targets::saved_names;
use crate::adapter::draft::Draft;
use crate::adapter::same::{same, same_as};
use crate::adapter::tensors::TensorFile;
use crate::adapter::{AdapterError, Projection, Site, SiteId};

const BASE_SHAPE: &str = "the base's shape; a resized vocabulary cannot be applied";

/// What stands before the module's name in keys of the modules that a method leaves in place.
pub(super) fn key_prefix(method: Method) -> &'static str {
    match method {
        Method::Lora | Method::Ia3 => "base_model.model.",
        Method::PromptTuning | Method::PTuning | Method::PrefixTuning => "base_model.",
    }
}

/// Undoes the names that wrapped modules have inside a model: PEFT strips them when it saves, except for biases
/// (`bias: all`), and not at all where a trainer saved the whole state.
pub(super) fn unwrap_names(file: &mut TensorFile<'_>) -> Result<(), AdapterError> {
    let wrapped: Vec<String> = file
        .names()
        .filter(|name| name.contains(".original_module.") || name.contains(".modules_to_save."))
        .map(str::to_owned)
        .collect();
    for name in wrapped {
        if name.contains(".original_module.") {
            // The base's own module, which the adapter does not use.
            file.take(&name);
            continue;
        }
        let plain = name.replacen(".modules_to_save.default.", ".", 1).replacen(".modules_to_save.", ".", 1);
        file.rename(&name, &plain)?;
    }
    Ok(())
}

/// Takes the weights that stand in place of the base's.
pub(super) fn read(
    config: &Config,
    modules: &[Module],
    file: &mut TensorFile<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    let names = saved_names(config)?;
    let prefix = key_prefix(config.method);
    let mut whole = Vec::new();
    for module in modules {
        if names.iter().any(|name| covers(name, &module.name)) {
            declared(module, prefix, file, draft)?;
        } else {
            undeclared(module, prefix, file, &mut whole, draft)?;
        }
    }
    share_tied(whole, modules, &names, draft)
}

/// Whether PEFT would save `module` for `name`: it, or a module around it, ends so.
fn covers(name: &str, module: &str) -> bool {
    let around = module.match_indices('.').map(|(dot, _)| &module[..dot]);
    around.chain([module]).any(|part| part.ends_with(name))
}

fn declared(
    module: &Module,
    prefix: &str,
    file: &mut TensorFile<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    let map = draft.map;
    let key = |part: &str| format!("{prefix}{}.{part}", module.name);
    match module.place {
        Place::Linear(site) if can_save(map.linears[site.0].site) => {
            let entry = &map.linears[site.0];
            let has_bias =
                entry.bias.is_some() || (entry.site.projection == Projection::Pooler && file.has(&key("bias")));
            let weight = file.need(&key("weight"))?.tensor(entry.weight.dims(), BASE_SHAPE)?; // [out, in]
            let bias = has_bias.then(|| file.need(&key("bias"))?.tensor(&[entry.outputs()], "one for each output"));
            let patch = draft.patch_mut(site);
            patch.weight = Some(weight);
            patch.bias = bias.transpose()?;
        }
        Place::Embedding => {
            let weight = file.need(&key("weight"))?.tensor(map.embedding.weight.dims(), BASE_SHAPE)?;
            draft.embedding.get_or_insert_default().weight = Some(weight); // [vocab, hidden]
        }
        Place::Positions => {
            if let Some(site) = &map.positions {
                let weight = file.need(&key("weight"))?.tensor(site.weight.dims(), "the base's shape")?;
                draft.positions.get_or_insert_default().weight = Some(weight); // [positions, hidden]
            }
        }
        Place::Head => {}
        Place::Linear(_) | Place::Frozen(_) => {
            return Err(AdapterError::unsupported(format!(
                "modules_to_save covers {}; score, classifier, pooler, lm_head and the embedding can be applied",
                module.name
            )));
        }
    }
    Ok(())
}

fn can_save(site: Site) -> bool {
    matches!(site.projection, Projection::Pooler | Projection::LmHead)
}

/// The embedding's and output head's matrices, which PEFT saves when they are targets (`base_layer`) or on demand, and
/// loads back into the base. Usually they repeat the base's.
fn undeclared(
    module: &Module,
    prefix: &str,
    file: &mut TensorFile<'_>,
    whole: &mut Vec<(Place, Tensor)>,
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    let map = draft.map;
    let base = match module.place {
        Place::Embedding => &map.embedding.weight,
        Place::Linear(site) if map.linears[site.0].site.projection == Projection::LmHead => &map.linears[site.0].weight,
        _ => return Ok(()),
    };
    for part in ["base_layer.weight", "weight"] {
        if let Some(view) = file.take(&format!("{prefix}{}.{part}", module.name)) {
            let weight = view.tensor(base.dims(), BASE_SHAPE)?;
            if !same_as(&weight, base)? {
                whole.push((module.place, weight));
            }
        }
    }
    Ok(())
}

/// Puts matrices that differ from the base's in place of them: on a tied base, one stands for both.
fn share_tied(
    whole: Vec<(Place, Tensor)>,
    modules: &[Module],
    names: &[String],
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    if whole.is_empty() {
        return Ok(());
    }
    let map = draft.map;
    let mut places: Vec<(Place, Tensor)> = Vec::new();
    for (place, weight) in whole {
        let twin = |module: &&Module| match module.place {
            Place::Embedding => true,
            Place::Linear(SiteId(id)) => map.linears[id].site.projection == Projection::LmHead,
            _ => false,
        };
        let own = |module: &&Module| module.place == place;
        let free = |module: &&Module| !names.iter().any(|name| covers(name, &module.name));
        let affected = modules.iter().filter(|m| own(m) || (map.tied && twin(m) && free(m)));
        places.extend(affected.map(|module| (module.place, weight.clone())));
    }
    for (place, weight) in places {
        let slot = match place {
            Place::Linear(site) => &mut draft.patch_mut(site).weight,
            _ => &mut draft.embedding.get_or_insert_default().weight,
        };
        match slot {
            Some(other) if !same(other, &weight)? => {
                return Err(AdapterError::invalid(
                    "the file has two different matrices for the embedding, which the base shares with its output head",
                ));
            }
            _ => *slot = Some(weight),
        }
    }
    Ok(())
}
