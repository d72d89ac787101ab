//! How far a step's answers are from what they should be, and what that says of the last layer's results.

use std::sync::Arc;

use candle_core::Result;
use rayon::prelude::*;
use repertoire_kernels::cpu::{self, Activation, Matrix, multiply};

use crate::adapter::Head;
use crate::device::{Buffer, with_f32, with_floats};
use crate::model::layers::{Linear, Norm};
use crate::model::ops::Ops;
use crate::model::{Batch, Targets};

use super::Tape;
use super::gradients::{Gradients, HeadGradients};
use super::linear::linear;
use super::tracked::Tracked;

/// Lines whose logits are there at once: the vocabulary is wide.
const TOGETHER: usize = 64;

/// What the last layer left, and what makes answers of it.
pub enum End {
    Decoder { sum: Tracked, norm: Norm, head: Linear },
    Encoder { sum: Tracked, pooler: Linear },
}

/// What came of comparing.
pub struct Compared {
    /// The sum of all losses, not scaled.
    pub loss: f64,
    /// The gradient of `scale · loss` of the last layer's results: [tokens, hidden].
    pub gradient: Buffer,
}

/// What is done with a loss.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// What the loss is multiplied by before its gradient is taken; absent: no gradient is.
    pub scale: Option<f32>,
    /// Whether that of the last layer's results is asked for.
    pub below: bool,
}

impl End {
    /// Compares answers with targets; adds the gradients of the adapter's parts that made them.
    pub fn compare(
        &self,
        batch: &Arc<Batch>,
        targets: &Targets,
        wanted: Wanted,
        gradients: &mut Gradients,
    ) -> Result<Compared> {
        let sum = match self {
            Self::Decoder { sum, .. } | Self::Encoder { sum, .. } => sum,
        };
        let mut gradient = Buffer::new(if wanted.below { sum.len() } else { 0 });
        gradient.fill(0.0);
        let mut all = Compared { loss: 0.0, gradient };
        let lines: Vec<usize> = match (targets, self) {
            (Targets::Tokens(tokens), _) => tokens.iter().map(|&(line, _)| line).collect(),
            (_, Self::Decoder { .. }) => batch.rows.iter().map(|row| row.tokens.end - 1).collect(),
            (_, Self::Encoder { .. }) => batch.rows.iter().map(|row| row.tokens.start).collect(),
        };
        for (i, lines) in lines.chunks(TOGETHER).enumerate() {
            let first = i * TOGETHER;
            let mut x = Buffer::new(lines.len() * sum.width);
            for (x, line) in x.chunks_exact_mut(sum.width).zip(lines) {
                x.copy_from_slice(&sum[line * sum.width..][..sum.width]);
            }
            let mut tape = if wanted.scale.is_some() { Tape::recording(batch) } else { Tape::forward(batch) };
            let x = tape.take(Arc::new(x), sum.width, wanted.below);
            let (y, d) = self.chunk(&mut tape, &x, targets, first, wanted.scale, &mut all.loss, gradients)?;
            let Some(d) = d else { continue };
            if let Some(dx) = tape.back(&y, d, gradients)?.filter(|_| wanted.below) {
                for (dx, line) in dx.chunks_exact(sum.width).zip(lines) {
                    cpu::add(&mut all.gradient[line * sum.width..][..sum.width], dx);
                }
            }
        }
        Ok(all)
    }

    /// Adds the losses of some lines; answers the matrix of the tape that made them, and its gradient.
    #[allow(clippy::too_many_arguments, reason = "a step of a loop, cut out")]
    fn chunk(
        &self,
        mut tape: &mut Tape,
        x: &Tracked,
        targets: &Targets,
        first: usize,
        scale: Option<f32>,
        loss: &mut f64,
        gradients: &mut Gradients,
    ) -> Result<(Tracked, Option<Buffer>)> {
        let x = match self {
            Self::Decoder { norm, .. } => tape.norm(x, norm)?,
            Self::Encoder { pooler, .. } => {
                let pooled = linear(tape, x, pooler)?;
                tape.activate(pooled, Activation::Tanh)?
            }
        };
        if let Targets::Tokens(tokens) = targets {
            let Self::Decoder { head, .. } = self else { candle_core::bail!("an encoder has no next token") };
            let logits = linear(tape, &x, head)?;
            let (losses, d) = tokens_loss(&logits, &tokens[first..], scale);
            *loss += losses;
            return Ok((logits, d));
        }
        let Some(head) = tape.adapter().and_then(|adapter| adapter.head.clone()) else {
            candle_core::bail!("labels are learned by an adapter with a head");
        };
        let scores = head_scores(&x, &head)?;
        let (losses, d) = labels_loss(&scores, targets, first, head.weight.dims()[0], scale);
        *loss += losses;
        let d = d.map(|d| head_back(&x, &head, &d, gradients)).transpose()?;
        Ok((x, d))
    }
}

/// Cross-entropy of each line's logits and its token.
fn tokens_loss(logits: &Tracked, tokens: &[(usize, u32)], scale: Option<f32>) -> (f64, Option<Buffer>) {
    let mut d = Buffer::new(logits.len());
    let lines = d.par_chunks_exact_mut(logits.width).zip(logits.par_chunks_exact(logits.width)).zip(tokens);
    let losses: Vec<f64> =
        lines.map(|((d, logits), &(_, token))| entropy(logits, token as usize, 1.0, scale, d)).collect();
    (losses.iter().sum(), scale.map(|_| d))
}

/// `weight · -log softmax(logits)[target]`; `d` becomes its gradient times `scale`.
fn entropy(logits: &[f32], target: usize, weight: f32, scale: Option<f32>, d: &mut [f32]) -> f64 {
    let most = cpu::max(logits);
    let sum: f32 = {
        d.iter_mut().zip(logits).for_each(|(d, x)| *d = cpu::exp(x - most));
        d.iter().sum()
    };
    if let Some(scale) = scale {
        let by = scale * weight;
        d.iter_mut().for_each(|d| *d *= by / sum);
        d[target] -= by;
    }
    f64::from(weight) * (f64::from(sum).ln() - f64::from(logits[target] - most))
}

/// Losses of rows from `first` on, whose scores are [rows, labels].
fn labels_loss(
    scores: &[f32],
    targets: &Targets,
    first: usize,
    labels: usize,
    scale: Option<f32>,
) -> (f64, Option<Vec<f32>>) {
    let mut d = vec![0.0; scores.len()];
    let rows = d.chunks_exact_mut(labels).zip(scores.chunks_exact(labels)).zip(first..);
    let loss = rows.map(|((d, scores), row)| match targets {
        Targets::Tokens(_) => 0.0,
        Targets::Label { of_rows, weights } => {
            let label = of_rows[row];
            let weight = weights.as_ref().map_or(1.0, |weights| weights[label]);
            entropy(scores, label, weight, scale, d)
        }
        Targets::Labels { of_rows, weights } => {
            let each = d.iter_mut().zip(scores).zip(&of_rows[row]).enumerate();
            each.map(|(label, ((d, &score), &is))| {
                let weight = if is { weights.as_ref().map_or(1.0, |weights| weights[label]) } else { 1.0 };
                let target = if is { 1.0 } else { 0.0 };
                *d = scale.unwrap_or(0.0) * weight * (1.0 / (1.0 + (-score).exp()) - target);
                // log(1 + e^-z) of what the score says for it.
                let z = f64::from(if is { score } else { -score });
                f64::from(weight) * ((-z.abs()).exp().ln_1p() + (-z).max(0.0))
            })
            .sum()
        }
    });
    let loss = loss.sum();
    (loss, scale.map(|_| d))
}

/// [rows, labels].
fn head_scores(x: &Tracked, head: &Head) -> Result<Vec<f32>> {
    let (labels, hidden) = head.weight.dims2()?;
    let mut scores = vec![0.0; x.lines() * labels];
    with_f32(&head.weight, |weight| {
        let weight = Matrix::new(weight, labels, hidden);
        multiply(Matrix::new(x, x.lines(), hidden), weight.across(), 0.0, 1.0, &mut scores);
        Ok(())
    })?;
    if let Some(bias) = &head.bias {
        with_floats(bias, |bias| cpu::add_row(&mut scores, bias))?;
    }
    Ok(scores)
}

/// The gradient of x; that of the head is added.
fn head_back(x: &Tracked, head: &Head, d: &[f32], gradients: &mut Gradients) -> Result<Buffer> {
    let ((labels, hidden), rows) = (head.weight.dims2()?, x.lines());
    let of_head = gradients
        .head
        .get_or_insert_with(|| HeadGradients { weight: vec![0.0; labels * hidden], bias: vec![0.0; labels] });
    let matrix = Matrix::new(d, rows, labels);
    multiply(matrix.across(), Matrix::new(x, rows, hidden), 1.0, 1.0, &mut of_head.weight);
    d.chunks_exact(labels).for_each(|d| cpu::add(&mut of_head.bias, d));
    let mut dx = Buffer::new(x.len());
    with_f32(&head.weight, |weight| {
        multiply(matrix, Matrix::new(weight, labels, hidden), 0.0, 1.0, &mut dx);
        Ok(())
    })?;
    Ok(dx)
}
