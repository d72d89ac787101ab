//! The tensors of a base, by name, whatever file they are in.

use std::cell::RefCell;

use candle_core::{DType, Device, Tensor, pickle::PthTensors, safetensors::MmapedSafetensors};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{GgufFile, LoadError, ModelConfig, Precision, WeightFiles};

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
    Dummy(RefCell<ChaCha8Rng>),
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
            WeightFiles::Dummy => Source::Dummy(RefCell::new(ChaCha8Rng::seed_from_u64(0))),
        };
        Ok(Self { source, precision, device: device.clone() })
    }

    /// Weights of a GGUF file under Hugging Face names.
    pub fn gguf(file: GgufFile, config: &ModelConfig, precision: Precision, device: &Device) -> Self {
        Self { source: Source::Gguf(Box::new(file), config.clone()), precision, device: device.clone() }
    }

    /// Whether weights are made up: they answer to every name.
    pub fn is_dummy(&self) -> bool {
        matches!(self.source, Source::Dummy(_))
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
            Source::Dummy(rng) => Some(dummy(&mut rng.borrow_mut(), name, shape, &self.device)?),
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
fn dummy(rng: &mut ChaCha8Rng, name: &str, shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    if name.contains("norm") || name.contains("ln_") || name.contains("LayerNorm") {
        let one = if name.ends_with("bias") { 0.0 } else { 1.0 };
        return Tensor::full(one, shape, device)?.to_dtype(DType::BF16);
    }
    let width = (3.0 / *shape.last().unwrap_or(&1) as f32).sqrt();
    let count = shape.iter().product();
    let values: Vec<half::bf16> = (0..count).map(|_| half::bf16::from_f32(rng.random_range(-width..width))).collect();
    Tensor::from_vec(values, shape, device)
}
