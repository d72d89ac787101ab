//! What a decoder answers at the end of a step.

use candle_core::{DType, Result, Tensor};

use crate::model::layers::{Linear, Norm};
use crate::model::{Batch, Output, Outputs};

use super::{head_scores, linear, norm};

/// Logits and scores of the last token of each row that wants them; `x` is [tokens, hidden], before the final norm.
pub fn decoder_outputs(x: &Tensor, final_norm: &Norm, head: &Linear, batch: &Batch) -> Result<Outputs> {
    let last_lines = |output| -> Result<Option<Tensor>> {
        let lasts: Vec<u32> = batch.rows_that_want(output).map(|row| row.tokens.end as u32 - 1).collect();
        match lasts.is_empty() {
            true => Ok(None),
            false => norm(&lookup(x, &lasts)?, final_norm).map(Some),
        }
    };
    let logits = match last_lines(Output::Logits)? {
        Some(x) => Some(linear(&x, head, &batch.output_segments(Output::Logits))?), // [rows, vocab]
        None => None,
    };
    let scores = match last_lines(Output::Scores)? {
        Some(x) => head_scores(&x, batch)?,
        None => vec![],
    };
    Ok(Outputs { logits, scores })
}

/// Lines of a table [n, width] by index, in f32.
pub fn lookup(table: &Tensor, indices: &[u32]) -> Result<Tensor> {
    let indices = Tensor::new(indices, table.device())?;
    table.index_select(&indices, 0)?.to_dtype(DType::F32)
}

/// The three thirds of a fused [tokens, 3 · width].
pub fn split3(fused: &Tensor) -> Result<[Tensor; 3]> {
    let width = fused.dims2()?.1 / 3;
    let part = |i: usize| fused.narrow(1, i * width, width)?.contiguous();
    Ok([part(0)?, part(1)?, part(2)?])
}
