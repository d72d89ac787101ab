//! DoRA's output scale: PEFT's `DoraLinearLayer.get_weight_norm` and `DoraEmbeddingLayer` (arXiv 2402.09353).

use candle_core::{DType, Device, Tensor};

use crate::adapter::{AdapterError, LowRank};
use crate::device::Weight;

/// Most numbers of the base's weight held as f32 at a time.
const BLOCK: usize = 1 << 20;

/// `[out]`: `m / ‖W + scale·BA‖`, the norm per output row, in f32.
pub(super) fn linear_scale(
    weight: &Weight,
    low_rank: &LowRank,
    magnitude: &Tensor,
    name: &str,
) -> Result<Tensor, AdapterError> {
    divide(magnitude, norms(weight, low_rank)?, name)
}

/// `[out]`: `‖W + scale·BA‖` of each output row, in f32.
pub fn norms(weight: &Weight, low_rank: &LowRank) -> Result<Vec<f32>, AdapterError> {
    let a = low_rank.a.to_dtype(DType::F32)?; // [rank, in]
    let mut norms = Vec::new();
    for (start, count) in blocks(weight)? {
        let rows = rows(weight, start, count)?; // [rows, in]
        let b = low_rank.b.narrow(0, start, count)?.to_dtype(DType::F32)?; // [rows, rank]
        let sum = (rows + (b.matmul(&a)? * f64::from(low_rank.scale))?)?;
        norms.extend(sum.sqr()?.sum(1)?.sqrt()?.to_vec1::<f32>()?);
    }
    Ok(norms)
}

/// `[hidden]`: `m / ‖E + scale·(BA)ᵀ‖`, the norm per column over the whole vocabulary; `low_rank.a` is [vocab, rank].
pub(super) fn embedding_scale(
    weight: &Weight,
    low_rank: &LowRank,
    magnitude: &Tensor,
    name: &str,
) -> Result<Tensor, AdapterError> {
    let b = low_rank.b.to_dtype(DType::F32)?.t()?; // [rank, hidden]
    let mut squares = vec![0f64; weight.dims()[1]];
    for (start, count) in blocks(weight)? {
        let rows = rows(weight, start, count)?; // [rows, hidden]
        let a = low_rank.a.narrow(0, start, count)?.to_dtype(DType::F32)?; // [rows, rank]
        let sum = (rows + (a.matmul(&b)? * f64::from(low_rank.scale))?)?;
        for (total, part) in squares.iter_mut().zip(sum.sqr()?.sum(0)?.to_vec1::<f32>()?) {
            *total += f64::from(part);
        }
    }
    divide(magnitude, squares.into_iter().map(|square| square.sqrt() as f32).collect(), name)
}

fn divide(magnitude: &Tensor, norms: Vec<f32>, name: &str) -> Result<Tensor, AdapterError> {
    let scale: Vec<f32> = magnitude.to_vec1::<f32>()?.iter().zip(&norms).map(|(m, norm)| m / norm).collect();
    if scale.iter().any(|s| !s.is_finite()) {
        return Err(AdapterError::invalid(format!(
            "{name} belongs to a weight with a row of norm 0 or too large a norm"
        )));
    }
    let count = scale.len();
    Ok(Tensor::from_vec(scale, count, &Device::Cpu)?)
}

/// Ranges of rows (start, count) of at most [`BLOCK`] numbers each.
fn blocks(weight: &Weight) -> Result<impl Iterator<Item = (usize, usize)>, AdapterError> {
    let &[rows, columns] = weight.dims() else {
        return Err(AdapterError::invalid(format!("DoRA of a weight of shape {:?}", weight.dims())));
    };
    let step = (BLOCK / columns.max(1)).max(1);
    Ok((0..rows).step_by(step).map(move |start| (start, step.min(rows - start))))
}

fn rows(weight: &Weight, start: usize, count: usize) -> Result<Tensor, AdapterError> {
    Ok(weight.rows(start, count)?.to_dtype(DType::F32)?)
}
