//! The tensors of a base, by name, whatever file they are in.

use candle_core::{DType, Device, Tensor, pickle::PthTensors, safetensors::MmapedSafetensors};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{GgufFile, LoadError, ModelConfig, Precision, WeightFiles};

/// Numbers that a stream of random ones makes.
const PART: usize = 1 << 20;

/// Reads tensors one by one, so that file and memory never both hold the whole base twice.
pub struct Weights {
    source: Source,
    precision: Precision,
    device: Device,
}

enum Source {
    Safetensors(MmapedSafetensors),
    Pickle(PthTensors),
    Gguf(Box<GgufFile>, ModelConfig),
    Dummy,
}

impl Weights {
    /// Opens weight files of the Hugging Face layout.
    #[allow(unsafe_code, reason = "the one mapped file; see below")]
    pub fn open(files: &WeightFiles, precision: Precision, device: &Device) -> Result<Self, LoadError> {
        let source = match files {
            // SAFETY: a mapped file must not be cut short meanwhile. A base's files are the operator's own, they are read
            // once, here at start, and nothing stays mapped after loading.
            WeightFiles::Safetensors(paths) => Source::Safetensors(unsafe { MmapedSafetensors::multi(paths) }?),
            WeightFiles::Pickle(path) => Source::Pickle(PthTensors::new(path, None)?),
            WeightFiles::Dummy => Source::Dummy,
        };
        Ok(Self { source, precision, device: device.clone() })
    }

    /// Weights of a GGUF file under Hugging Face names.
    pub fn gguf(file: GgufFile, config: &ModelConfig, precision: Precision, device: &Device) -> Self {
        Self { source: Source::Gguf(Box::new(file), config.clone()), precision, device: device.clone() }
    }

    /// What most of the numbers are, as they come.
    pub fn dtype(&self) -> DType {
        let known = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
        let stored = match (self.precision, &self.source) {
            (Precision::As(dtype), _) => return dtype,
            (_, Source::Safetensors(file)) => {
                let tensors = file.tensors();
                let largest = tensors.iter().max_by_key(|(_, view)| view.data().len());
                largest.and_then(|(_, view)| DType::try_from(view.dtype()).ok())
            }
            (_, Source::Pickle(file)) => {
                let largest = file.tensor_infos().values().max_by_key(|info| info.layout.shape().elem_count());
                largest.map(|info| info.dtype)
            }
            (_, Source::Gguf(..)) => None,
            (_, Source::Dummy) => Some(DType::BF16),
        };
        stored.filter(|&dtype| known(dtype)).unwrap_or(DType::F32)
    }

    /// Whether weights are made up: they answer to every name.
    pub fn is_dummy(&self) -> bool {
        matches!(self.source, Source::Dummy)
    }

    /// The tensor called `name`, if there is one. Floats come in the precision asked for. `shape` is what it should be: dummy weights are made in it.
    pub fn find(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>, LoadError> {
        let tensor = match &self.source {
            Source::Safetensors(file) => match file.get(name) {
                Ok(_) => Some(file.load(name, &self.device)?),
                Err(_) => None,
            },
            Source::Pickle(file) => file.get(name)?,
            Source::Gguf(file, config) => file.tensor(name, config, &self.device)?,
            Source::Dummy => Some(dummy(name, shape, &self.device)?),
        };
        let Some(tensor) = tensor else { return Ok(None) };
        if tensor.dims() != shape {
            return Err(LoadError::Unsupported(format!(
                "weight {name} has shape {:?}, config.json asks for {shape:?}",
                tensor.dims()
            )));
        }
        Ok(Some(self.convert(&tensor)?))
    }

    fn convert(&self, tensor: &Tensor) -> candle_core::Result<Tensor> {
        let held = match (self.precision, tensor.dtype()) {
            (Precision::As(dtype), _) => dtype,
            (Precision::Stored, dtype @ (DType::F32 | DType::F16 | DType::BF16)) => dtype,
            (Precision::Stored, _) => DType::F32,
        };
        tensor.to_dtype(held)?.contiguous()
    }
}

/// Random weights that keep activations in range; norms are one, as in an untrained model.
fn dummy(name: &str, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    if name.contains("norm") || name.contains("ln_") || name.contains("LayerNorm") {
        let one = if name.ends_with("bias") { 0.0 } else { 1.0 };
        return Tensor::full(one, shape, device)?.to_dtype(DType::BF16);
    }
    let width = (3.0 / *shape.last().unwrap_or(&1) as f32).sqrt();
    let mut values = vec![half::bf16::ZERO; shape.iter().product()];
    // Each part by a stream of its own: the same on any number of threads.
    let seed = u64::from(crc32fast::hash(name.as_bytes()));
    values.par_chunks_mut(PART).enumerate().for_each(|(part, values)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(part as u64);
        values.fill_with(|| half::bf16::from_f32(rng.random_range(-width..width)));
    });
    Tensor::from_vec(values, shape, device)
}
