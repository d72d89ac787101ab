//! Whether a tensor repeats one of the base's.

use candle_core::{DType, Device, Tensor};

use super::AdapterError;

/// Most numbers compared at a time, so that comparing a large matrix does not double it.
const BLOCK: usize = 1 << 20;

/// Whether two tensors are equal, or one is the other rounded to its own dtype.
pub(super) fn same(a: &Tensor, b: &Tensor) -> Result<bool, AdapterError> {
    if a.dims() != b.dims() {
        return Ok(false);
    }
    Ok(rounds_to(a, b)? || rounds_to(b, a)?)
}

fn rounds_to(a: &Tensor, b: &Tensor) -> Result<bool, AdapterError> {
    let Some(&rows) = a.dims().first().filter(|&&rows| rows > 0) else { return Ok(true) };
    let step = (BLOCK / (a.elem_count() / rows).max(1)).max(1);
    for start in (0..rows).step_by(step) {
        let count = step.min(rows - start);
        let part = |t: &Tensor| t.narrow(0, start, count)?.to_device(&Device::Cpu);
        let (a, b) = (part(a)?, part(b)?);
        let rounded = a.to_dtype(DType::F32)?.to_dtype(b.dtype())?;
        let unlike = rounded.ne(&b)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        if unlike != 0.0 {
            return Ok(false);
        }
    }
    Ok(true)
}
