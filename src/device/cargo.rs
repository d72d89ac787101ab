//! Numbers on the host that are wanted elsewhere.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use half::bf16;
use repertoire_kernels::cuda::{Dtype, convert};

use super::weight::{kernel_dtype, with_bytes};

/// Numbers that are made at a time: they stay in the core's cache.
const MADE: usize = 1 << 14;

/// A tensor's numbers, wherever they lie. Any number of threads may copy some of them at once.
pub struct Cargo<'a> {
    shape: Vec<usize>,
    numbers: Numbers<'a>,
}

enum Numbers<'a> {
    Stored { bytes: &'a [u8], dtype: Dtype },
    Repeated { block: Arc<[bf16]>, first: usize },
    Held(Tensor),
    Made(Box<Make<'a>>),
}

/// Writes a tensor's numbers from a place on, as many as fit.
type Make<'a> = dyn Fn(usize, &mut [f32]) -> Result<()> + Send + Sync + 'a;

impl<'a> Cargo<'a> {
    /// The numbers of `bytes`, little-endian, as a file has them.
    ///
    /// # Panics
    /// If they are not as many as `shape` has.
    pub fn stored(shape: &[usize], bytes: &'a [u8], dtype: Dtype) -> Self {
        let cargo = Self { shape: shape.into(), numbers: Numbers::Stored { bytes, dtype } };
        assert_eq!(bytes.len(), cargo.len() * dtype.bytes(), "the bytes of {shape:?} {dtype:?}");
        cargo
    }

    /// The numbers of `block` from `first` on, and again from its beginning, until there are as many as `shape` has.
    pub fn repeated(shape: &[usize], block: Arc<[bf16]>, first: usize) -> Self {
        Self { shape: shape.into(), numbers: Numbers::Repeated { block, first } }
    }

    /// Numbers that `make` makes: from a place on, as many as fit into what it is given.
    pub fn made(shape: &[usize], make: impl Fn(usize, &mut [f32]) -> Result<()> + Send + Sync + 'a) -> Self {
        Self { shape: shape.into(), numbers: Numbers::Made(Box::new(make)) }
    }

    /// How many.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The tensor's shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Writes the numbers from the place `from` on to `out`, as many as fit, rounded to `dtype`.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn copy(&self, from: usize, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        let range = from..from + out.len() / dtype.bytes();
        let some = |bytes: &[u8], stored: Dtype, out: &mut [u8]| {
            convert(stored, &bytes[range.start * stored.bytes()..range.end * stored.bytes()], dtype, out);
        };
        match &self.numbers {
            Numbers::Stored { bytes, dtype: stored } => some(bytes, *stored, out),
            Numbers::Held(tensor) => with_bytes(tensor, |stored, bytes| some(bytes, stored, out))?,
            Numbers::Made(make) => {
                let mut numbers = vec![0.0; MADE.min(range.len())];
                for (from, out) in (from..).step_by(MADE).zip(out.chunks_mut(MADE * dtype.bytes())) {
                    let numbers = &mut numbers[..out.len() / dtype.bytes()];
                    make(from, numbers)?;
                    convert(Dtype::F32, bytemuck::cast_slice(numbers), dtype, out);
                }
            }
            Numbers::Repeated { block, first } => {
                let (mut at, mut out) = ((first + from) % block.len(), out);
                while !out.is_empty() {
                    let count = (block.len() - at).min(out.len() / dtype.bytes());
                    let (now, later) = out.split_at_mut(count * dtype.bytes());
                    convert(Dtype::Bf16, bytemuck::cast_slice(&block[at..at + count]), dtype, now);
                    (at, out) = (0, later);
                }
            }
        }
        Ok(())
    }
}

/// A tensor of floats on the CPU.
impl TryFrom<Tensor> for Cargo<'_> {
    type Error = candle_core::Error;

    fn try_from(tensor: Tensor) -> Result<Self> {
        if kernel_dtype(tensor.dtype()).is_none() {
            candle_core::bail!("weights are f32, f16 or bf16, given {:?}", tensor.dtype());
        }
        let tensor = tensor.contiguous()?;
        Ok(Self { shape: tensor.dims().into(), numbers: Numbers::Held(tensor) })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn any_part_is_as_the_whole() {
        let numbers: Vec<f32> = (0..40_000).map(|i| (i as f32 * 0.7).sin()).collect();
        let tensor = Tensor::from_vec(numbers.clone(), (400, 100), &Device::Cpu).unwrap();
        let stored: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let block: Arc<[bf16]> = numbers[..77].iter().map(|&x| bf16::from_f32(x)).collect();
        let repeated: Vec<f32> = (0..40_000).map(|i| block[(5 + i) % 77].to_f32()).collect();
        let repeated = Tensor::from_vec(repeated, (400, 100), &Device::Cpu).unwrap();
        let make = |from: usize, out: &mut [f32]| {
            out.copy_from_slice(&numbers[from..from + out.len()]);
            Ok(())
        };
        let cargos = [
            (Cargo::stored(&[400, 100], &stored, Dtype::F32), &tensor),
            (Cargo::try_from(tensor.clone()).unwrap(), &tensor),
            (Cargo::repeated(&[400, 100], block, 5), &repeated),
            (Cargo::made(&[400, 100], make), &tensor),
        ];
        for (cargo, tensor) in &cargos {
            for (dtype, held) in [(Dtype::F32, DType::F32), (Dtype::F16, DType::F16), (Dtype::Bf16, DType::BF16)] {
                let all = with_bytes(&tensor.to_dtype(held).unwrap(), |_, bytes| bytes.to_vec()).unwrap();
                for range in [0..40_000, 0..1, 39_999..40_000, 71..39_640] {
                    let mut out = vec![0; range.len() * dtype.bytes()];
                    cargo.copy(range.start, dtype, &mut out).unwrap();
                    assert_eq!(out, all[range.start * dtype.bytes()..range.end * dtype.bytes()], "{dtype:?} {range:?}");
                }
            }
        }
    }
}
