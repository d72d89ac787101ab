//! Adapters to measure with: random weights in PEFT's layout, for this server and for others.

mod settings;
mod targets;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::adapter::{Adapter, Metadata, Package, ReadLimits, SiteMap};
use crate::app;
use crate::config::Config;
use targets::Targeted;

/// What adapters to make.
#[derive(Debug, Args)]
pub struct Make {
    /// Writes adapters with random weights into this folder, as bench-KIND-0000 and so on, in place of measuring
    #[arg(long, value_name = "FOLDER")]
    pub make_adapters: Option<PathBuf>,
    /// How many adapters to make
    #[arg(long, value_name = "N", default_value_t = 1, requires = "make_adapters")]
    count: usize,
    /// Their kind
    #[arg(long, value_enum, default_value_t = Made::Lora, requires = "make_adapters", value_name = "KIND")]
    kind: Made,
    /// Rank of LoRA and DoRA
    #[arg(long, value_name = "R", default_value_t = 16, requires = "make_adapters")]
    rank: usize,
    /// Linear layers that LoRA, DoRA and IA3 change; default is what PEFT takes
    #[arg(long, value_enum, default_value_t = Breadth::Default, requires = "make_adapters", value_name = "default|all-linear")]
    targets: Breadth,
    /// Virtual tokens of prompt tuning and prefix tuning
    #[arg(long, value_name = "N", default_value_t = 16, requires = "make_adapters")]
    virtual_tokens: usize,
    /// Adds a classification head with so many labels
    #[arg(long, value_name = "N", requires = "make_adapters")]
    labels: Option<usize>,
    /// How numbers are stored
    #[arg(long, value_enum, default_value_t = Stored::F32, requires = "make_adapters", value_name = "f32|f16|bf16")]
    dtype: Stored,
}

/// Kinds that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Made {
    Lora,
    Dora,
    Ia3,
    PromptTuning,
    PrefixTuning,
}

/// How much of a base is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Breadth {
    Default,
    AllLinear,
}

/// Number formats of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stored {
    F32,
    F16,
    Bf16,
}

impl Make {
    /// Writes the adapters for a configured base, the first where none is named.
    pub fn run(&self, folder: &Path, config: &Config, base: Option<&str>, seed: u64) -> Result<()> {
        let mut bases = config.bases.iter();
        let found = match base {
            None => bases.next(),
            Some(name) => bases.find(|base| base.name == name || base.aliases.iter().any(|alias| alias == name)),
        };
        let base = found.with_context(|| format!("base {:?} is not configured", base.unwrap_or_default()))?;
        let loaded = app::load_model(base, None)?;
        let map = loaded.model.sites();
        self.check(map, config.adapters.max_rank)?;
        // Where PEFT would find the base, if the configuration says so; any name that means this base is right for us.
        let saved_base = base.aliases.first().unwrap_or(&base.name);
        let targeted = Targeted::of(map, self.kind, self.targets);
        let settings = settings::of(self, map, &targeted, saved_base);
        let magnitudes = if self.kind == Made::Dora { weights::magnitudes(&targeted)? } else { Vec::new() };
        // Each by a stream of its own: the same on any number of threads.
        (0..self.count).into_par_iter().try_for_each(|number| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(number as u64);
            let tensors = weights::draw(self, map, &targeted, &magnitudes, &mut rng);
            let files = [
                // An adapter is there once its configuration is.
                ("adapter_model.safetensors", weights::serialize(&tensors, self.dtype)?),
                ("adapter_config.json", serde_json::to_vec_pretty(&settings)?),
            ];
            if number == 0 {
                check_readable(&files, map, config.adapters.max_rank)?;
            }
            write(&folder.join(self.name(number)), &files)
        })?;
        println!("{} adapters for base {} are in {}", self.count, map.base, folder.display());
        println!("  --adapters {}..{:04} asks for them", self.name(0), self.count.saturating_sub(1));
        Ok(())
    }

    fn name(&self, number: usize) -> String {
        let kind = self.kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        format!("bench-{kind}-{number:04}")
    }

    fn check(&self, map: &SiteMap, max_rank: usize) -> Result<()> {
        let counts = [("--count", self.count), ("--rank", self.rank), ("--virtual-tokens", self.virtual_tokens)];
        for (name, given) in counts.into_iter().chain(self.labels.map(|labels| ("--labels", labels))) {
            if given == 0 {
                bail!("{name} must be at least 1, given 0");
            }
        }
        if self.rank > max_rank {
            bail!("--rank must be at most adapters.max_rank, which is {max_rank}, given {}", self.rank);
        }
        if !map.causal && self.labels.is_none() {
            bail!("base {} is an encoder: its adapters need a head, give --labels", map.base);
        }
        Ok(())
    }
}

/// What this server itself would refuse is no use to anybody.
fn check_readable(files: &[(&str, Vec<u8>)], map: &SiteMap, max_rank: usize) -> Result<()> {
    let files = files.iter().map(|(name, content)| (*name, Bytes::copy_from_slice(content)));
    let package = Package::from_files(files, Metadata::default())?;
    Adapter::read(&package, &[Arc::new(map.clone())], &ReadLimits { max_rank })
        .context("such adapters cannot be applied")?;
    Ok(())
}

fn write(folder: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let failed = || format!("{} cannot be written", folder.display());
    std::fs::create_dir_all(folder).with_context(failed)?;
    for (name, content) in files {
        std::fs::write(folder.join(name), content).with_context(failed)?;
    }
    Ok(())
}
