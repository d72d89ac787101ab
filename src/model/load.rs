//! From the files of a base to a [`BaseModel`].

mod builder;
mod config;
mod dummy;
mod gguf;
mod quantised;
mod weights;

use std::path::{Path, PathBuf};

use candle_core::Device;

pub use builder::{Builder, Naming};
pub use config::ModelConfig;
pub use gguf::GgufFile;
pub use weights::Weights;

use crate::device::{GpuTarget, Placement};

use super::{BaseModel, Body, CpuModel, GpuModel};

/// Why a base cannot be loaded. Messages are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A file that is not what it should be.
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },
    /// The model asks for something this server does not compute exactly.
    #[error("this base cannot be run: {0}")]
    Unsupported(String),
    #[error("weights: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Where a base's weights are.
#[derive(Clone, Debug)]
pub enum WeightFiles {
    /// One file or several shards.
    Safetensors(Vec<PathBuf>),
    /// `pytorch_model.bin` in zip form.
    Pickle(PathBuf),
    /// Random, from a fixed seed: for benchmarks.
    Dummy,
}

/// In which precision weights are held. Arithmetic on the CPU is f32 throughout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As the file has them.
    Stored,
    As(candle_core::DType),
}

/// Loads a base from `config.json` and its weights, onto a GPU if there is a target.
pub fn load_folder(
    name: &str,
    aliases: Vec<String>,
    config: &Path,
    files: &WeightFiles,
    precision: Precision,
    target: Option<GpuTarget>,
) -> Result<Box<dyn BaseModel>, LoadError> {
    let config = ModelConfig::read(config)?;
    let weights = Weights::open(files, precision, &Device::Cpu)?;
    build(name, aliases, &config, weights, target)
}

/// Loads a base from an open GGUF file, dequantised, onto a GPU if there is a target.
pub fn load_gguf(
    name: &str,
    aliases: Vec<String>,
    file: GgufFile,
    precision: Precision,
    target: Option<GpuTarget>,
) -> Result<Box<dyn BaseModel>, LoadError> {
    let config = file.config()?;
    let weights = Weights::gguf(file, &config, precision, &Device::Cpu);
    build(name, aliases, &config, weights, target)
}

fn build(
    name: &str,
    aliases: Vec<String>,
    config: &ModelConfig,
    weights: Weights,
    target: Option<GpuTarget>,
) -> Result<Box<dyn BaseModel>, LoadError> {
    let placement = target.map(|target| Placement::new(target, weights.dtype())).transpose()?;
    let body = Body::load(Builder::new(name, aliases, config, weights, placement.clone()), config)?;
    Ok(match placement {
        None => Box::new(CpuModel::new(body)),
        Some(placement) => {
            placement.settle();
            Box::new(GpuModel::new(body, &placement)?)
        }
    })
}
