//! Random weights, for benchmarks: the same on every machine and wherever the base runs.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use half::bf16;
use half::vec::HalfBitsVecExt;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use repertoire_kernels::cuda::Dtype;

use crate::device::Cargo;

/// Numbers that are drawn; all weights are made of them. Billions would take seconds on many cores. A prime, so that no two rows
/// of a matrix begin at the same one of them, however wide they are, until all have been the first.
const DRAWN: usize = 1_048_573;
/// Numbers that a thread copies at a time.
const PART: usize = 1 << 20;

/// Numbers already drawn, by the bits of how far they are from zero.
#[derive(Default)]
pub struct Dummy(Mutex<HashMap<u32, Arc<[bf16]>>>);

impl Dummy {
    /// A weight that keeps activations in range; norms are one, as in an untrained model.
    pub fn cargo(&self, name: &str, shape: &[usize]) -> Result<Cargo<'static>> {
        if name.contains("norm") || name.contains("ln_") || name.contains("LayerNorm") {
            let one = if name.ends_with("bias") { 0.0 } else { 1.0 };
            return Tensor::full(one, shape, &Device::Cpu)?.to_dtype(DType::BF16)?.try_into();
        }
        let width = (3.0 / *shape.last().unwrap_or(&1) as f32).sqrt();
        let block = self.0.lock().entry(width.to_bits()).or_insert_with(|| draw(width)).clone();
        // Each weight begins elsewhere.
        Ok(Cargo::repeated(shape, block, crc32fast::hash(name.as_bytes()) as usize))
    }

    /// The same as a tensor.
    pub fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor> {
        let cargo = self.cargo(name, shape)?;
        // Pages of zeros come from the system, and the threads are the first to touch them.
        let mut values: Vec<bf16> = vec![0u16; cargo.len()].reinterpret_into();
        let parts = values.par_chunks_mut(PART).enumerate();
        parts.try_for_each(|(part, values)| cargo.copy(part * PART, Dtype::Bf16, bytemuck::cast_slice_mut(values)))?;
        Tensor::from_vec(values, shape, device)
    }
}

fn draw(width: f32) -> Arc<[bf16]> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    (0..DRAWN).map(|_| bf16::from_f32(rng.random_range(-width..width))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_are_the_same() {
        let tensor = |name: &str| Dummy::default().tensor(name, &[3000, 1024], &Device::Cpu).unwrap();
        let (one, other) = (tensor("a.weight"), tensor("b.weight"));
        let rows = [one.to_vec2::<bf16>().unwrap(), other.to_vec2().unwrap()].concat();
        let mut firsts: Vec<Vec<u16>> = rows.iter().map(|row| row[..8].iter().map(|x| x.to_bits()).collect()).collect();
        firsts.sort();
        firsts.dedup();
        assert_eq!(firsts.len(), 6000);
        let spread = one.to_dtype(DType::F32).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((spread * 1024.0 - 1.0).abs() < 0.01, "{spread}: sums over 1024 inputs keep their size");
    }
}
