//! What a decoder answers at the end of a step.

use candle_core::Result;

use crate::device::{Activations, Buffer, with_f32};
use crate::model::layers::{Linear, Norm};
use crate::model::{Batch, Output, Outputs};

use super::{head_scores, linear, norm};

/// Logits and scores of the last token of each row that wants them; `x` is [tokens, hidden], before the final norm.
pub fn decoder_outputs(x: &Activations, final_norm: &Norm, head: &Linear, batch: &Batch) -> Result<Outputs> {
    let last_lines = |output| -> Result<Option<Activations>> {
        let lasts: Vec<usize> = batch.rows_that_want(output).map(|row| row.tokens.end - 1).collect();
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

/// Some lines of `x` [lines, width], by index.
pub fn lookup(x: &Activations, lines: &[usize]) -> Result<Activations> {
    let width = x.dims2()?.1;
    let mut y = Buffer::new(lines.len() * width);
    with_f32(x, |x| {
        for (y, line) in y.chunks_exact_mut(width).zip(lines) {
            y.copy_from_slice(&x[line * width..][..width]);
        }
        Ok(())
    })?;
    Activations::new(y, lines.len(), width)
}

/// The three thirds of a fused [tokens, 3 · width].
pub fn split3(fused: &Activations) -> Result<[Activations; 3]> {
    let (tokens, all) = fused.dims2()?;
    let width = all / 3;
    let part = |i: usize| {
        let mut y = Buffer::new(tokens * width);
        with_f32(fused, |fused| {
            for (y, line) in y.chunks_exact_mut(width).zip(fused.chunks_exact(all)) {
                y.copy_from_slice(&line[i * width..][..width]);
            }
            Ok(())
        })?;
        Activations::new(y, tokens, width)
    };
    Ok([part(0)?, part(1)?, part(2)?])
}
