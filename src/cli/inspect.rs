//! `repertoire inspect`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::adapter::{Adapter, Metadata, Package, ReadLimits, SiteMap, archive};
use crate::app;
use crate::config::{BaseConfig, Config, Overrides};

use super::push::read_folder;

/// What to look at.
#[derive(Debug, Args)]
pub struct Inspect {
    /// An adapter's folder or archive, or a base's folder or .gguf file
    path: PathBuf,
    /// The base to check an adapter against [default: the configured ones]
    #[arg(long, value_name = "SOURCE")]
    base: Option<String>,
    /// Configuration file [default: config.toml here, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Inspect {
    /// Says what it is; an error when it cannot be applied.
    pub fn run(self) -> Result<()> {
        if !self.path.exists() {
            bail!("{} does not exist", self.path.display());
        }
        let is_base = self.path.join("config.json").is_file() || holds_gguf(&self.path);
        let is_adapter = self.path.join("adapter_config.json").is_file() || self.path.join("prompt.json").is_file();
        if is_base && !is_adapter { inspect_base(&self.path) } else { self.inspect_adapter() }
    }

    fn inspect_adapter(&self) -> Result<()> {
        let config = Config::load(self.config.as_deref(), Overrides::default().environment(std::env::vars()))?;
        let package = package(&self.path, config.limits.body_bytes.0)?;
        describe_files(&package);
        let bases = self.bases(&config)?;
        if bases.is_empty() {
            println!("no base is at hand to check it against; name one with --base FOLDER");
            return Ok(());
        }
        let limits = ReadLimits { max_rank: config.adapters.max_rank };
        let adapter = Adapter::read(&package, &bases, &limits).context("it cannot be applied exactly")?;
        println!("applies exactly to base {}", adapter.base);
        describe(&adapter);
        Ok(())
    }

    /// The named base, or the configured ones that are on this machine.
    fn bases(&self, config: &Config) -> Result<Vec<Arc<SiteMap>>> {
        let named = self.base.as_ref().map(|source| vec![BaseConfig::new(source.clone(), source.clone())]);
        let bases = named.unwrap_or_else(|| {
            let here = |base: &&BaseConfig| Path::new(base.source.trim_start_matches("dummy://")).exists();
            let (here, away): (Vec<&BaseConfig>, Vec<&BaseConfig>) = config.bases.iter().partition(here);
            for BaseConfig { name, source, .. } in away {
                let next =
                    if source.starts_with("hf://") { format!("; --base {source} fetches it") } else { String::new() };
                println!("base {name} ({source}) is not on this machine and was not asked{next}");
            }
            here.into_iter().cloned().collect()
        });
        let sites = |base: &BaseConfig| {
            let loaded = app::load_model(base, None)?;
            Ok(app::sites_with_tokenizer(loaded.model.sites(), Arc::new(loaded.tokenizer)))
        };
        bases.iter().map(sites).collect()
    }
}

/// A GGUF file, or a folder with one.
fn holds_gguf(path: &Path) -> bool {
    let named = |path: &Path| path.extension().is_some_and(|extension| extension == "gguf");
    let inside = || std::fs::read_dir(path).is_ok_and(|folder| folder.flatten().any(|entry| named(&entry.path())));
    named(path) || inside()
}

fn package(path: &Path, max_bytes: u64) -> Result<Package> {
    if path.is_dir() {
        let mut package = read_folder(path)?;
        // Beside a hand-placed adapter stands what an upload's metadata would say.
        if let Ok(text) = std::fs::read_to_string(path.join("repertoire.json")) {
            package.metadata = serde_json::from_str(&text).context("repertoire.json")?;
        }
        return Ok(package);
    }
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let files = archive::unpack(&bytes, max_bytes)
        .with_context(|| format!("{} is neither a folder nor an archive", path.display()))?;
    Ok(Package::from_files(files, Metadata::default())?)
}

/// What people look for first in adapter_config.json.
const PEFT_FIELDS: [&str; 8] = [
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "use_dora",
    "num_virtual_tokens",
    "target_modules",
];

/// What its own files say, before any base is asked.
fn describe_files(package: &Package) {
    let json = |name: &str| package.files.get(name).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    if let Some(config) = json("adapter_config.json") {
        print_fields(&config, &PEFT_FIELDS);
    }
    if let Some(prompt) = json("prompt.json") {
        print_fields(&prompt["format"], &["template"]);
        print_fields(&prompt["config"], &["prompt_length", "pretrained_model_name"]);
    }
    for (name, content) in &package.files {
        println!("{name:26} {} bytes", content.len());
    }
    println!("{:26} {}", "digest", package.digest());
}

fn print_fields(object: &Value, fields: &[&str]) {
    for field in fields {
        match &object[*field] {
            Value::Null | Value::Bool(false) => {}
            Value::String(text) => println!("{field:26} {text}"),
            value => println!("{field:26} {value}"),
        }
    }
}

fn describe(adapter: &Adapter) {
    println!("{:26} {}", "kind", adapter.kind);
    println!("{:26} {}", "parameters", adapter.parameters());
    println!("{:26} {}", "bytes in memory", adapter.bytes());
    println!("{:26} {}", "linear sites changed", adapter.patches.iter().flatten().count());
    if let Some(virtual_tokens) = &adapter.virtual_tokens {
        println!("{:26} {}", "virtual tokens", virtual_tokens.count());
    }
    if let Some(prefix) = &adapter.prefix {
        println!("{:26} {}", "prefix positions", prefix.count);
    }
    if let Some(head) = &adapter.head {
        println!("{:26} {}", "labels", head.labels.join(", "));
    }
    if let Some(format) = &adapter.prompt_format {
        println!("{:26} {format:?}", "prompt format");
    }
}

fn inspect_base(path: &Path) -> Result<()> {
    let source = path.display().to_string();
    let loaded = app::load_model(&BaseConfig::new("base", source), None).context("it cannot be served")?;
    let sites = loaded.model.sites();
    println!("a base that this server can serve");
    for (name, value) in [
        ("family", sites.family.clone()),
        ("kind", if sites.causal { "decoder".into() } else { "encoder".into() }),
        ("layers", sites.layers.to_string()),
        ("hidden", sites.hidden.to_string()),
        ("heads", format!("{} ({} for keys and values)", sites.heads, sites.kv_heads)),
        ("vocabulary", sites.vocab.to_string()),
        ("context", sites.context.to_string()),
        ("weights", format!("{:?}", sites.embedding.weight.dtype()).to_ascii_lowercase()),
        ("chat template", if loaded.tokenizer.chat.is_some() { "yes".into() } else { "no".into() }),
    ] {
        println!("{name:26} {value}");
    }
    println!("adapters may target:");
    let mut modules: Vec<&str> = sites.linears.iter().filter_map(|entry| entry.module.rsplit('.').next()).collect();
    modules.sort_unstable();
    modules.dedup();
    println!("  {}", modules.join(", "));
    Ok(())
}
