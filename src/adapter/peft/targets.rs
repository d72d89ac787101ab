//! Which modules an adapter targets: PEFT's `check_target_module_exists`.

use std::collections::HashSet;

use regex::bytes::Regex;
use serde_json::Value;

use super::config::{Config, Method, Names, TaskType, wrong};
use super::modules::{Module, Place};
use super::pattern::{Anchor, compile};
use crate::adapter::{AdapterError, Projection, SiteMap};

const MAX_SAVED: usize = 256;

/// The modules chosen by `target_modules` and its companions.
pub(super) struct Targets {
    chosen: Chosen,
    exclude: Option<Matcher>,
    /// `modules_to_save` are never targeted.
    saved: Vec<Regex>,
    layers: Option<Layers>,
}

enum Chosen {
    AllLinear,
    These(Matcher),
}

/// A list of suffixes or a pattern.
pub(super) enum Matcher {
    Suffixes(HashSet<String>),
    Whole(Regex),
}

struct Layers {
    indexes: Vec<i64>,
    patterns: Vec<Regex>,
}

impl Targets {
    /// Reads `target_modules`, `exclude_modules`, `layers_to_transform`, `layers_pattern` and `modules_to_save`.
    pub(super) fn read(config: &Config, map: &SiteMap) -> Result<Self, AdapterError> {
        let chosen = match config.names("target_modules")? {
            None => Chosen::These(Matcher::Suffixes(defaults(config.method, &map.family)?)),
            Some(Names::Pattern(text)) if text.eq_ignore_ascii_case("all-linear") => Chosen::AllLinear,
            Some(names) => Chosen::These(Matcher::new("target_modules", names)?),
        };
        let exclude = match config.names("exclude_modules")? {
            Some(Names::List(names)) if names.is_empty() => None,
            names => names.map(|names| Matcher::new("exclude_modules", names)).transpose()?,
        };
        let saved = saved_names(config)?
            .iter()
            .map(|name| compile("modules_to_save", &format!(r"(^|.*\.){name}($|\..*)"), Anchor::Start))
            .collect::<Result<_, _>>()?;
        let pattern = matches!(&chosen, Chosen::AllLinear | Chosen::These(Matcher::Whole(_)));
        let layers = if config.method == Method::Lora { Layers::read(config, pattern)? } else { None };
        Ok(Self { chosen, exclude, saved, layers })
    }

    /// The targeted among `modules`; none is an error.
    pub(super) fn among<'m>(&self, modules: &'m [Module], map: &SiteMap) -> Result<Vec<&'m Module>, AdapterError> {
        let targeted: Vec<&Module> = modules.iter().filter(|module| self.contain(module, map)).collect();
        if targeted.is_empty() {
            return Err(AdapterError::invalid(format!(
                "target_modules, exclude_modules and layers_to_transform leave no module of base {} ({})",
                map.base, map.family
            )));
        }
        Ok(targeted)
    }

    fn contain(&self, module: &Module, map: &SiteMap) -> bool {
        let name = module.name.as_str();
        if self.exclude.as_ref().is_some_and(|exclude| exclude.matches(name)) {
            return false;
        }
        if self.saved.iter().any(|saved| saved.is_match(name.as_bytes())) {
            return false;
        }
        match &self.chosen {
            Chosen::AllLinear => match module.place {
                Place::Linear(id) => map.linears[id.0].site.projection != Projection::LmHead,
                _ => false,
            },
            // A name in full is taken whatever its layer.
            Chosen::These(Matcher::Suffixes(names)) if names.contains(name) => true,
            Chosen::These(Matcher::Whole(pattern)) => pattern.is_match(name.as_bytes()),
            Chosen::These(suffixes) => {
                suffixes.matches(name) && self.layers.as_ref().is_none_or(|layers| layers.contain(name))
            }
        }
    }
}

impl Matcher {
    pub(super) fn new(key: &str, names: Names) -> Result<Self, AdapterError> {
        Ok(match names {
            Names::List(names) => Self::Suffixes(names.into_iter().collect()),
            Names::Pattern(pattern) => Self::Whole(compile(key, &pattern, Anchor::Full)?),
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Whole(pattern) => pattern.is_match(name.as_bytes()),
            Self::Suffixes(names) => {
                names.contains(name) || name.match_indices('.').any(|(dot, _)| names.contains(&name[dot + 1..]))
            }
        }
    }
}

impl Layers {
    fn read(config: &Config, pattern: bool) -> Result<Option<Self>, AdapterError> {
        let layers = config.get("layers_to_transform");
        let patterns = match config.names("layers_pattern")? {
            None => Vec::new(),
            Some(Names::Pattern(one)) if one.is_empty() => Vec::new(),
            Some(Names::Pattern(one)) => vec![one],
            Some(Names::List(names)) => names,
        };
        // PEFT's own checks of these combinations.
        if pattern && (layers.is_some() || !patterns.is_empty()) {
            return Err(AdapterError::invalid(
                "layers_to_transform and layers_pattern need target_modules to be a list of names",
            ));
        }
        let indexes = match layers {
            None if patterns.is_empty() => return Ok(None),
            None => return Err(AdapterError::invalid("layers_pattern needs layers_to_transform")),
            Some(Value::Array(items)) => items.iter().map(layer_index).collect::<Result<Vec<_>, _>>()?,
            Some(one) => vec![layer_index(one)?],
        };
        if indexes.is_empty() {
            return Ok(None);
        }
        let patterns = if patterns.is_empty() {
            vec![compile("layers_pattern", r".*?\.[^.]*\.(?P<idx>\d+)\.", Anchor::Start)?]
        } else {
            let whole = |one: &String| format!(r"(?:^|.*?\.){one}\.(?P<idx>\d+)\.");
            patterns
                .iter()
                .map(|one| compile("layers_pattern", &whole(one), Anchor::Start))
                .collect::<Result<_, _>>()?
        };
        Ok(Some(Self { indexes, patterns }))
    }

    /// Whether the layer that the first matching pattern finds in `name` is among those to transform.
    fn contain(&self, name: &str) -> bool {
        let found = self.patterns.iter().find_map(|pattern| pattern.captures(name.as_bytes()));
        let index = found.and_then(|groups| groups.name("idx").map(|group| group.as_bytes().to_vec()));
        let index = index.and_then(|digits| String::from_utf8(digits).ok()?.parse::<i64>().ok());
        index.is_some_and(|index| self.indexes.contains(&index))
    }
}

fn layer_index(value: &Value) -> Result<i64, AdapterError> {
    value.as_i64().ok_or_else(|| wrong("layers_to_transform", "a layer's index or a list of them", value))
}

/// `modules_to_save`, with the heads that PEFT adds for classification.
pub(super) fn saved_names(config: &Config) -> Result<Vec<String>, AdapterError> {
    let mut names = config.name_list("modules_to_save")?;
    if config.task == Some(TaskType::SeqCls) {
        names.extend(["classifier".to_owned(), "score".to_owned()]);
    }
    names.sort();
    names.dedup();
    if names.len() > MAX_SAVED {
        return Err(AdapterError::invalid(format!(
            "modules_to_save may have {MAX_SAVED} names, given {}",
            names.len()
        )));
    }
    Ok(names)
}

/// PEFT's choice of targets where the configuration has none.
fn defaults(method: Method, family: &str) -> Result<HashSet<String>, AdapterError> {
    let names: &[&str] = match (method, family) {
        (Method::Ia3, "bert") => &["key", "value", "output.dense"],
        (Method::Ia3, "gpt2") => &["c_attn", "mlp.c_proj"],
        (Method::Ia3, "llama" | "mistral") => &["k_proj", "v_proj", "down_proj"],
        (Method::Ia3, "qwen2" | "qwen3") => &["q_proj", "v_proj", "down_proj"],
        (_, "bert") => &["query", "value"],
        (_, "gpt2") => &["c_attn"],
        (_, "llama" | "mistral" | "qwen2" | "qwen3") => &["q_proj", "v_proj"],
        _ => return Err(AdapterError::invalid(format!("target_modules is not set, and {family} has no default"))),
    };
    Ok(names.iter().map(|name| (*name).to_owned()).collect())
}

/// PEFT's choice of feed-forward modules for IA3 where the configuration has none.
pub(super) fn feedforward_defaults(family: &str) -> Result<Vec<String>, AdapterError> {
    let name = match family {
        "bert" => "output.dense",
        "gpt2" => "mlp.c_proj",
        "llama" | "mistral" | "qwen2" | "qwen3" => "down_proj",
        _ => return Err(AdapterError::invalid(format!("feedforward_modules is not set, and {family} has no default"))),
    };
    Ok(vec![name.to_owned()])
}
