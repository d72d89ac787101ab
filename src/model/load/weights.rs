//! The tensors of a base, by name, whatever file they are in.

use candle_core::{DType, Device, Tensor, pickle::PthTensors, safetensors::MmapedSafetensors};

use crate::device::{Cargo, kernel_dtype};

use super::dummy::Dummy;
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
    Dummy(Dummy),
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
            WeightFiles::Dummy => Source::Dummy(Dummy::default()),
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
            (_, Source::Dummy(_)) => Some(DType::BF16),
        };
        stored.filter(|&dtype| known(dtype)).unwrap_or(DType::F32)
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
            Source::Dummy(dummy) => Some(dummy.tensor(name, shape, &self.device)?),
        };
        let Some(tensor) = tensor else { return Ok(None) };
        check_shape(name, tensor.dims(), shape)?;
        Ok(Some(self.convert(&tensor)?))
    }

    /// The numbers of the tensor called `name`, to be rounded to the precision asked for: from where the file has them, where
    /// that can be.
    pub fn cargo(&self, name: &str, shape: &[usize]) -> Result<Option<Cargo<'_>>, LoadError> {
        match &self.source {
            Source::Safetensors(file) => {
                let Ok(view) = file.get(name) else { return Ok(None) };
                let stored = DType::try_from(view.dtype()).ok().and_then(kernel_dtype);
                if let Some(dtype) = stored {
                    check_shape(name, view.shape(), shape)?;
                    return Ok(Some(Cargo::stored(shape, view.data(), dtype)));
                }
            }
            Source::Gguf(file, config) => {
                let Some(cargo) = file.cargo(name, config) else { return Ok(None) };
                check_shape(name, cargo.shape(), shape)?;
                return Ok(Some(cargo));
            }
            Source::Dummy(dummy) => return Ok(Some(dummy.cargo(name, shape)?)),
            Source::Pickle(_) => {}
        }
        Ok(self.find(name, shape)?.map(Cargo::try_from).transpose()?)
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

fn check_shape(name: &str, given: &[usize], wanted: &[usize]) -> Result<(), LoadError> {
    if given == wanted {
        return Ok(());
    }
    Err(LoadError::Unsupported(format!("weight {name} has shape {given:?}, config.json asks for {wanted:?}")))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::device::with_bytes;

    const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    /// Compares what a GPU would get of weights with their tensors in the same precision.
    fn check(weights: &Weights, held: DType, all: &[(&str, &[usize])]) {
        let dtype = kernel_dtype(held).unwrap();
        for (name, shape) in all {
            let tensor = weights.find(name, shape).unwrap().expect("it is there").to_dtype(held).unwrap();
            let cargo = weights.cargo(name, shape).unwrap().expect("it is there");
            let mut bytes = vec![0; cargo.len() * dtype.bytes()];
            cargo.copy(0, dtype, &mut bytes).unwrap();
            assert_eq!(cargo.shape(), *shape);
            assert!(with_bytes(&tensor, |_, tensor| tensor == bytes).unwrap(), "{name} in {held:?}");
            assert!(weights.cargo(name, &[1]).is_err() || weights.is_dummy(), "the shape is that of config.json");
        }
        assert!(weights.cargo("nobody", &[1]).unwrap().is_none() || weights.is_dummy());
    }

    fn bases() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bases")
    }

    #[test]
    fn a_gpu_gets_the_bits_of_the_tensors() {
        // bf16, f32, f16, and bf16 in shards.
        let shards: [&[&str]; 4] = [
            &["llama/model.safetensors"],
            &["qwen3/model.safetensors"],
            &["mistral/model.safetensors"],
            &["llama3/model-00001-of-00002.safetensors", "llama3/model-00002-of-00002.safetensors"],
        ];
        for shards in shards {
            let files = WeightFiles::Safetensors(shards.iter().map(|shard| bases().join(shard)).collect());
            let precisions = DTYPES.map(|held| (held, Precision::As(held)));
            let stored = DTYPES.map(|held| (held, Precision::Stored));
            for (held, precision) in precisions.into_iter().chain(stored) {
                let weights = Weights::open(&files, precision, &Device::Cpu).unwrap();
                let Source::Safetensors(file) = &weights.source else { panic!("safetensors") };
                let views = file.tensors();
                let all: Vec<_> = views.iter().map(|(name, view)| (name.as_str(), view.shape())).collect();
                assert!(all.len() >= 20);
                check(&weights, held, &all);
            }
        }
    }

    #[test]
    fn a_gpu_gets_the_bits_of_tensors_that_are_made() {
        let all: &[(&str, &[usize])] = &[
            ("model.embed_tokens.weight", &[317, 32]),
            ("model.layers.1.self_attn.q_proj.weight", &[32, 32]),
            ("model.layers.1.self_attn.k_proj.weight", &[16, 32]),
            ("model.layers.1.self_attn.v_proj.weight", &[16, 32]),
            ("model.norm.weight", &[32]),
        ];
        for held in DTYPES {
            let file = GgufFile::open(&bases().join("llama.gguf")).unwrap();
            let config = file.config().unwrap();
            check(&Weights::gguf(file, &config, Precision::As(held), &Device::Cpu), held, all);
            check(&Weights::open(&WeightFiles::Dummy, Precision::As(held), &Device::Cpu).unwrap(), held, all);
        }
    }

    #[test]
    fn a_gpu_gets_the_bits_of_pickled_tensors() {
        let files = WeightFiles::Pickle(bases().join("gpt2/pytorch_model.bin"));
        for held in DTYPES {
            let weights = Weights::open(&files, Precision::As(held), &Device::Cpu).unwrap();
            let Source::Pickle(file) = &weights.source else { panic!("a pickle") };
            let infos = file.tensor_infos();
            let all = infos.iter().filter(|(_, info)| kernel_dtype(info.dtype).is_some());
            let all: Vec<_> = all.map(|(name, info)| (name.as_str(), info.layout.dims())).collect();
            assert!(all.len() > 10);
            check(&weights, held, &all);
        }
    }
}
