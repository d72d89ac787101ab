//! What the configuration says of each targeted module, and of virtual tokens.

use serde_json::Value;

use super::config::{Config, Method, Names, as_count, as_number};
use super::modules::Module;
use super::pattern::{Anchor, compile};
use super::targets::feedforward_defaults;
use crate::adapter::kinds::lora::Settings;
use crate::adapter::{AdapterError, ReadLimits, SiteMap};

const MAX_PATTERNS: usize = 4096;
const MAX_PATTERN_BYTES: usize = 512 << 10;

/// Initialisations that change the base's weights, so that the saved adapter belongs to another base.
const CHANGES_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga", "mica"];

/// Rank, scale and variant of each LoRA target.
pub(super) fn of<'m>(
    config: &Config,
    targets: Vec<&'m Module>,
    limits: &ReadLimits,
) -> Result<Vec<(&'m Module, Settings)>, AdapterError> {
    check_init(config)?;
    let dora = config.flag("use_dora")?;
    let bias = config.flag("lora_bias")?;
    if dora && bias {
        return Err(AdapterError::invalid("lora_bias cannot be used with use_dora"));
    }
    config.flag("fan_in_fan_out")?; // The shapes of A and B do not depend on it.
    let rslora = config.flag("use_rslora")?;
    let rank = config.count("r")?.unwrap_or(8);
    let alpha = config.number("lora_alpha")?.unwrap_or(8.0);
    let ranks = by_pattern(config, "rank_pattern", &targets)?;
    let alphas = by_pattern(config, "alpha_pattern", &targets)?;
    let mut out = Vec::with_capacity(targets.len());
    for (at, module) in targets.into_iter().enumerate() {
        let rank = ranks[at].map_or(Ok(rank), |value| as_count("rank_pattern", value))?;
        let alpha = alphas[at].map_or(Ok(alpha), |value| as_number("alpha_pattern", value))?;
        if rank == 0 {
            return Err(AdapterError::invalid(format!("r must be at least 1, given 0 for {}", module.name)));
        }
        if rank > limits.max_rank {
            return Err(AdapterError::unsupported(format!(
                "a rank may be {}, given {rank} for {}",
                limits.max_rank, module.name
            )));
        }
        let scale = if rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 } as f32;
        if !scale.is_finite() {
            return Err(AdapterError::invalid(format!("lora_alpha of {} is too large: {alpha}", module.name)));
        }
        out.push((module, Settings { rank, scale, dora, bias }));
    }
    Ok(out)
}

/// For each target the value of the first pattern, in file order, that matches it: PEFT's `get_pattern_key`.
fn by_pattern<'c>(config: &'c Config, key: &str, targets: &[&Module]) -> Result<Vec<Option<&'c Value>>, AdapterError> {
    let patterns = config.patterns(key)?;
    let bytes: usize = patterns.iter().map(|(pattern, _)| pattern.len()).sum();
    if patterns.len() > MAX_PATTERNS || bytes > MAX_PATTERN_BYTES {
        return Err(AdapterError::invalid(format!(
            "{key} may have {MAX_PATTERNS} patterns of {MAX_PATTERN_BYTES} bytes together, given {} of {bytes}",
            patterns.len()
        )));
    }
    let mut found = vec![None; targets.len()];
    for (pattern, value) in &patterns {
        let regex = compile(key, &format!(r"(.*\.)?({pattern})$"), Anchor::Start)?;
        for (slot, module) in found.iter_mut().zip(targets) {
            if slot.is_none() && regex.is_match(module.name.as_bytes()) {
                *slot = Some(*value);
            }
        }
    }
    // PEFT looks a name that no pattern matches up as a key itself.
    for (slot, module) in found.iter_mut().zip(targets) {
        if slot.is_none() {
            *slot = patterns.iter().find(|(name, _)| *name == module.name).map(|(_, value)| *value);
        }
    }
    Ok(found)
}

fn check_init(config: &Config) -> Result<(), AdapterError> {
    let Some(Value::String(init)) = config.get("init_lora_weights") else { return Ok(()) };
    let name = init.to_lowercase();
    if CHANGES_BASE.iter().any(|changing| name.starts_with(changing)) {
        let shown: String = init.chars().take(40).collect();
        return Err(AdapterError::unsupported(format!(
            "init_lora_weights {shown:?} changed the base's weights; save the adapter converted to plain LoRA \
             (save_pretrained with path_initial_model_for_weight_conversion)"
        )));
    }
    Ok(())
}

/// Refuses adapters that tie their embedding and output head, as PEFT would on a tied base.
pub(super) fn check_tying(config: &Config, map: &SiteMap) -> Result<(), AdapterError> {
    if config.method == Method::Lora && config.flag("ensure_weight_tying")? && map.tied {
        return Err(AdapterError::unsupported(format!(
            "ensure_weight_tying cannot be applied on base {}, whose output head shares the embedding's matrix",
            map.base
        )));
    }
    Ok(())
}

/// Which IA3 targets are feed-forward: PEFT's `_check_target_module_feedforward`.
pub(super) fn feedforward<'m>(
    config: &Config,
    targets: Vec<&'m Module>,
    map: &SiteMap,
) -> Result<Vec<(&'m Module, bool)>, AdapterError> {
    config.flag("fan_in_fan_out")?;
    let given = config.names("feedforward_modules")?;
    // Only what is given must be among the targets: PEFT puts its own default in after that check.
    if let (Some(Names::List(list)), Some(Names::List(all))) = (&given, config.names("target_modules")?)
        && let Some(stray) = list.iter().find(|name| !all.contains(name))
    {
        return Err(AdapterError::invalid(format!(
            "feedforward_modules must be among target_modules, given {stray:?}"
        )));
    }
    let names = match given {
        Some(names) => names,
        None => Names::List(feedforward_defaults(&map.family)?),
    };
    let pattern = match &names {
        Names::Pattern(pattern) => Some(compile("feedforward_modules", pattern, Anchor::Full)?),
        Names::List(_) => None,
    };
    let is_feedforward = |name: &str| match (&pattern, &names) {
        (Some(pattern), _) => pattern.is_match(name.as_bytes()),
        // Unlike targets, a suffix here may begin inside a part of the name.
        (None, Names::List(list)) => list.iter().any(|suffix| name.ends_with(suffix.as_str())),
        (None, Names::Pattern(_)) => false,
    };
    Ok(targets.into_iter().map(|module| (module, is_feedforward(&module.name))).collect())
}

/// `num_virtual_tokens`, after everything that the configuration says of the base's shape was checked.
pub(super) fn virtual_tokens(config: &Config, map: &SiteMap) -> Result<usize, AdapterError> {
    let prefix = config.method == Method::PrefixTuning;
    let width = if prefix { map.kv_dim() } else { map.hidden };
    expect(config, "token_dim", width, map)?;
    expect(config, "num_layers", map.layers, map)?;
    expect(config, "num_transformer_submodules", 1, map)?;
    if prefix {
        expect(config, "num_attention_heads", map.kv_heads, map)?;
    }
    let count = config.count("num_virtual_tokens")?.unwrap_or(0);
    if count == 0 {
        return Err(AdapterError::invalid("num_virtual_tokens must be at least 1"));
    }
    if count >= map.context {
        return Err(AdapterError::invalid(format!(
            "num_virtual_tokens must be below the context of base {}, which is {}, given {count}",
            map.base, map.context
        )));
    }
    Ok(count)
}

fn expect(config: &Config, key: &str, wanted: usize, map: &SiteMap) -> Result<(), AdapterError> {
    match config.count(key)? {
        Some(given) if given != wanted => {
            Err(AdapterError::invalid(format!("{key} must be {wanted} for base {}, given {given}", map.base)))
        }
        _ => Ok(()),
    }
}
