//! Whether a tensor repeats one of the base's.

use candle_core::{DType, Tensor};

use super::AdapterError;
use crate::device::Weight;

/// Most numbers compared at a time, so that comparing a large matrix does not double it.
const BLOCK: usize = 1 << 20;

/// Whether two tensors are equal, or one is the other rounded to its own dtype.
pub(super) fn same(a: &Tensor, b: &Tensor) -> Result<bool, AdapterError> {
    same_as(a, &Weight::from(b.clone()))
}

/// The same of a weight of the base, wherever it is.
pub(super) fn same_as(a: &Tensor, b: &Weight) -> Result<bool, AdapterError> {
    if a.dims() != b.dims() {
        return Ok(false);
    }
    let Some(&rows) = a.dims().first().filter(|&&rows| rows > 0) else { return Ok(true) };
    let step = (BLOCK / (a.elem_count() / rows).max(1)).max(1);
    // As all rows so far say.
    let (mut rounded_a, mut rounded_b) = (true, true);
    for start in (0..rows).step_by(step) {
        let count = step.min(rows - start);
        let (a, b) = (a.narrow(0, start, count)?, b.rows(start, count)?);
        rounded_a = rounded_a && rounds_to(&a, &b)?;
        rounded_b = rounded_b && rounds_to(&b, &a)?;
        if !rounded_a && !rounded_b {
            return Ok(false);
        }
    }
    Ok(true)
}

fn rounds_to(a: &Tensor, b: &Tensor) -> Result<bool, AdapterError> {
    let rounded = a.to_dtype(DType::F32)?.to_dtype(b.dtype())?;
    let unlike = rounded.ne(b)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    Ok(unlike == 0.0)
}
