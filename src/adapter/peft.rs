//! Folders that HF PEFT saves: `adapter_config.json` and `adapter_model.safetensors`.

mod bias;
mod config;
mod known;
pub(super) mod modules;
mod pattern;
mod saved;
mod settings;
mod targets;
mod task;

pub(super) use config::Config;
pub(super) use task::check as check_task;

use super::draft::Draft;
use super::kinds::{ia3, lora, prefix, prompt};
use super::package::{CONFIG, WEIGHTS};
use super::tensors::{TensorFile, few};
use super::{AdapterError, Kind, Metadata, ReadLimits, SiteMap, TaskKind};
use config::Method;
use modules::Naming;
use targets::Targets;

/// Reads the weights against a base: every tensor must find its place, and every targeted module its tensors.
pub(super) fn read<'m>(
    config: &Config,
    weights: &[u8],
    metadata: &Metadata,
    map: &'m SiteMap,
    limits: &ReadLimits,
) -> Result<(Kind, Draft<'m>), AdapterError> {
    let mut file = TensorFile::parse(WEIGHTS, weights)?;
    saved::unwrap_names(&mut file)?;
    let task = task::of(config, metadata, map, &file)?;
    settings::check_tying(config, map)?;
    let naming = Naming::of(map, &file, config.task.is_some(), task == TaskKind::Classify);
    let modules = naming.modules(map);
    let mut draft = Draft::new(map);

    saved::read(config, &modules, &mut file, &mut draft)?;
    let kind = match config.method {
        Method::Lora => {
            let targets = Targets::read(config, map)?.among(&modules, map)?;
            let targets = settings::of(config, targets, limits)?;
            bias::read(config, &modules, &mut file, &mut draft)?;
            lora::read(&targets, &mut file, &mut draft)?;
            if config.flag("use_dora")? { Kind::Dora } else { Kind::Lora }
        }
        Method::Ia3 => {
            let targets = Targets::read(config, map)?.among(&modules, map)?;
            let targets = settings::feedforward(config, targets, map)?;
            ia3::read(&targets, &mut file, &mut draft)?;
            Kind::Ia3
        }
        Method::PromptTuning | Method::PTuning => {
            prompt::read(settings::virtual_tokens(config, map)?, &mut file, &mut draft)?;
            if config.method == Method::PTuning { Kind::PTuning } else { Kind::PromptTuning }
        }
        Method::PrefixTuning => {
            prefix::read(settings::virtual_tokens(config, map)?, &mut file, &mut draft)?;
            Kind::PrefixTuning
        }
    };
    if task == TaskKind::Classify {
        task::head(config, metadata, &mut file, &mut draft)?;
    }
    let left: Vec<&str> = file.names().collect();
    if !left.is_empty() {
        return Err(AdapterError::unsupported(format!(
            "the file has tensors that {} gives no place on base {} ({}): {}",
            CONFIG,
            map.base,
            map.family,
            few(&left)
        )));
    }
    Ok((kind, draft))
}
