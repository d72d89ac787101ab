//! What a decoder answers at the end of a step.

use candle_core::Result;
use rayon::prelude::*;
use repertoire_kernels::cpu::{LogSoftmax, NotFinite};

use crate::device::{Activations, Buffer, with_f32};
use crate::model::batch::segments;
use crate::model::layers::{Linear, Norm};
use crate::model::{Batch, Choice, Output, Outputs, Row};

use super::elementwise::norm;
use super::linear::{head_scores, linear_group};

/// Logits and scores of the last token of each row that wants them; `x` is [tokens, hidden], before the final norm.
pub fn decoder_outputs(x: &Activations, final_norm: &Norm, head: &Linear, batch: &Batch) -> Result<Outputs> {
    let last_lines = |rows: &[&Row]| -> Result<Option<Activations>> {
        let lasts: Vec<usize> = rows.iter().map(|row| row.tokens.end - 1).collect();
        match lasts.is_empty() {
            true => Ok(None),
            false => norm(&lookup(x, &lasts)?, final_norm).map(Some),
        }
    };
    let scored: Vec<&Row> = batch.rows_that_want(Output::Scores).collect();
    let scores = match last_lines(&scored)? {
        Some(x) => head_scores(&x, batch)?,
        None => vec![],
    };
    // All in one: the head is the largest matrix.
    let rows: Vec<&Row> = batch.rows.iter().filter(|row| row.output.needs_logits()).collect();
    let Some(x) = last_lines(&rows)? else { return Ok(Outputs { scores, ..Outputs::default() }) };
    let [all] = linear_group(&x, [head], &segments(rows.iter().copied()))?; // [rows, vocab]
    let (chosen, given): (Vec<usize>, Vec<usize>) =
        (0..rows.len()).partition(|&row| rows[row].output == Output::Choice);
    let choices = choices(&all, &chosen)?;
    let logits = match (chosen.is_empty(), given.is_empty()) {
        (true, _) => Some(all),
        (false, true) => None,
        (false, false) => Some(lookup(&all, &given)?),
    };
    Ok(Outputs { logits, choices, scores })
}

/// The likeliest tokens of some rows of logits [rows, vocab].
fn choices(logits: &Activations, rows: &[usize]) -> Result<Vec<Choice>> {
    let vocab = logits.dims2()?.1;
    with_f32(logits, |logits| {
        let choice = |&row: &usize| {
            let row = &logits[row * vocab..][..vocab];
            match LogSoftmax::of(row) {
                Ok(softmax) => Choice { id: softmax.best() as u32, logprob: softmax.logprob(row[softmax.best()]) },
                Err(NotFinite { token }) => Choice { id: token as u32, logprob: f32::NAN },
            }
        };
        Ok(rows.par_iter().map(choice).collect())
    })
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
