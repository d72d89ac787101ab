//! Applies adapters on the CPU, row by row of a matrix, in the order of PEFT's own operations.

use std::borrow::Cow;

use candle_core::{Result, Tensor};
use repertoire_kernels::cpu::{self, Floats};

use crate::device::with_floats;
use crate::profile::{self, Part};

use super::LinearPatch;

/// What a linear site does: `y = x·Wᵀ + b`, changed by an adapter's patch where there is one.
#[derive(Clone, Copy)]
pub struct SiteWeights<'a> {
    /// [out, in].
    pub weight: &'a Tensor,
    /// `[out]`.
    pub bias: Option<&'a Tensor>,
}

/// Neighbouring lines of a matrix and the patch of their adapter.
pub struct PatchedLines<'a> {
    pub lines: std::ops::Range<usize>,
    pub patch: Option<&'a LinearPatch>,
}

/// Computes `y` [lines, out] of `x` [lines, in] at a site. `segments` cover all lines in order.
pub fn apply_linear(x: &[f32], y: &mut [f32], site: SiteWeights<'_>, segments: &[PatchedLines<'_>]) -> Result<()> {
    let (outputs, inputs) = site.weight.dims2()?;
    let x = rescale_inputs(x, inputs, segments)?;
    base_products(&x, y, site, segments)?;
    for segment in segments {
        let _timer = profile::time(if segment.patch.is_some() { Part::Adapters } else { Part::Linear });
        let lines = segment.lines.clone();
        let x = &x[lines.start * inputs..lines.end * inputs];
        let y = &mut y[lines.start * outputs..lines.end * outputs];
        let bias = match segment.patch {
            Some(patch) => {
                add_low_rank(x, y, lines.len(), patch)?;
                if let Some(scale) = &patch.output_scale {
                    with_floats(scale, |scale| cpu::scale_row(y, scale))?;
                }
                patch.bias.as_ref().or(site.bias)
            }
            None => site.bias,
        };
        if let Some(bias) = bias {
            with_floats(bias, |bias| cpu::add_row(y, bias))?;
        }
        if let Some(scale) = segment.patch.and_then(|patch| patch.rescale_output.as_ref()) {
            with_floats(scale, |scale| cpu::scale_row(y, scale))?;
        }
    }
    Ok(())
}

/// The inputs as the base's product sees them: scaled where an adapter scales them (IA3, feed-forward).
fn rescale_inputs<'a>(x: &'a [f32], inputs: usize, segments: &[PatchedLines<'_>]) -> Result<Cow<'a, [f32]>> {
    let mut x = Cow::Borrowed(x);
    for segment in segments {
        if let Some(scale) = segment.patch.and_then(|patch| patch.rescale_input.as_ref()) {
            let _timer = profile::time(Part::Adapters);
            let lines = &mut x.to_mut()[segment.lines.start * inputs..segment.lines.end * inputs];
            with_floats(scale, |scale| cpu::scale_row(lines, scale))?;
        }
    }
    Ok(x)
}

/// `x·Wᵀ`: one product for every run of segments that use the base's weight.
fn base_products(x: &[f32], y: &mut [f32], site: SiteWeights<'_>, segments: &[PatchedLines<'_>]) -> Result<()> {
    let _timer = profile::time(Part::Linear);
    let (outputs, inputs) = site.weight.dims2()?;
    let own = |segment: &PatchedLines<'_>| segment.patch.is_some_and(|patch| patch.weight.is_some());
    for run in segments.chunk_by(|a, b| !own(a) && !own(b)) {
        let (from, to) = (run[0].lines.start, run[run.len() - 1].lines.end);
        let weight = run[0].patch.and_then(|patch| patch.weight.as_ref()).unwrap_or(site.weight);
        let (x, y) = (&x[from * inputs..to * inputs], &mut y[from * outputs..to * outputs]);
        with_floats(weight, |w| cpu::linear(x, w, y, to - from, inputs, outputs))?;
    }
    Ok(())
}

/// `y += scale · (x·Aᵀ)·Bᵀ`.
fn add_low_rank(x: &[f32], y: &mut [f32], lines: usize, patch: &LinearPatch) -> Result<()> {
    let Some(low_rank) = &patch.low_rank else { return Ok(()) };
    let (rank, inputs) = low_rank.a.dims2()?;
    let mut shrunk = vec![0.0; lines * rank];
    with_floats(&low_rank.a, |a| cpu::linear(x, a, &mut shrunk, lines, inputs, rank))?;
    with_floats(&low_rank.b, |b| expand(&shrunk, b, y, lines, rank, low_rank.scale))?;
    Ok(())
}

fn expand(shrunk: &[f32], b: Floats<'_>, y: &mut [f32], lines: usize, rank: usize, scale: f32) {
    let mut delta = vec![0.0; y.len()];
    cpu::linear(shrunk, b, &mut delta, lines, rank, y.len() / lines.max(1));
    cpu::scale_add(y, &delta, scale);
}

/// One token's embedding `[hidden]`, changed by an adapter's patch where there is one.
pub fn apply_embedding(
    token: usize,
    table: &Tensor,
    patch: Option<&super::EmbeddingPatch>,
    out: &mut [f32],
) -> Result<()> {
    let hidden = out.len();
    let table = patch.and_then(|patch| patch.weight.as_ref()).unwrap_or(table);
    with_floats(table, |table| table.row(token, hidden).copy_to(out))?;
    let Some(patch) = patch else { return Ok(()) };
    if let Some(low_rank) = &patch.low_rank {
        let rank = low_rank.a.dims2()?.1;
        let mut shrunk = vec![0.0; rank];
        with_floats(&low_rank.a, |a| a.row(token, rank).copy_to(&mut shrunk))?;
        with_floats(&low_rank.b, |b| expand(&shrunk, b, out, 1, rank, low_rank.scale))?;
    }
    if let Some(scale) = &patch.output_scale {
        with_floats(scale, |scale| cpu::scale_row(out, scale))?;
    }
    Ok(())
}

/// The raw label scores of a hidden state: `head.weight·x + head.bias`.
pub fn apply_head(x: &[f32], head: &super::Head) -> Result<Vec<f32>> {
    let (labels, hidden) = head.weight.dims2()?;
    let mut scores = vec![0.0; labels];
    with_floats(&head.weight, |w| cpu::linear(x, w, &mut scores, 1, hidden, labels))?;
    if let Some(bias) = &head.bias {
        with_floats(bias, |bias| cpu::add_row(&mut scores, bias))?;
    }
    Ok(scores)
}
