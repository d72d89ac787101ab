//! Linear sites: y = rescale_output ⊙ (output_scale ⊙ (W·(rescale_input ⊙ x) + scale·B(A·x)) + bias), and the way back.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use repertoire_kernels::cpu::{self, Matrix, linear_back, multiply};

use crate::adapter::apply::{PatchedSite, apply_linear};
use crate::adapter::{Adapter, LinearPatch, LowRank, SiteId};
use crate::device::{Buffer, Weight, with_f32, with_floats};
use crate::model::layers::Linear;

use super::gradients::{Gradients, PatchGradients};
use super::record::Record;
use super::tracked::Tracked;
use super::{Tape, copy};

/// Lines from which on a general product is faster than the one that serves, whose order of sums does not depend on how many there are.
const MANY: usize = 64;

/// A site's result and what it was made of.
pub struct Made {
    pub x: Tracked,
    layer: Linear,
    adapter: Arc<Adapter>,
    /// The product before it is scaled, where something scales it.
    unscaled: Option<Buffer>,
}

/// Computes a site, with the change of the tape's adapter.
pub fn linear(tape: &mut Tape, x: &Tracked, layer: &Linear) -> Result<Tracked> {
    let adapter = tape.adapter().filter(|adapter| adapter.patch(layer.site).is_some()).cloned();
    let patch = adapter.as_ref().and_then(|adapter| adapter.patch(layer.site));
    let width = layer.weight.dims()[0];
    let bias = layer.bias.as_ref().map(Weight::on_host);
    let product = |patch: Option<&LinearPatch>, bias: Option<&Tensor>| -> Result<Buffer> {
        if x.lines() >= MANY && layer.weight.dtype() == DType::F32 {
            return product_of_many(x, layer, patch, bias);
        }
        let patches = patch.map(|patch| (0..x.lines(), patch)).into_iter().collect();
        let [y] = apply_linear(x, [PatchedSite { weight: layer.weight.on_host(), bias, patches }])?;
        Ok(y)
    };
    let scaled = patch.filter(|patch| patch.output_scale.is_some() || patch.rescale_output.is_some());
    let (y, unscaled) = match scaled {
        None => (product(patch, bias)?, None),
        Some(patch) => {
            let plain = LinearPatch { bias: None, output_scale: None, rescale_output: None, ..patch.clone() };
            let unscaled = product(Some(&plain), None)?;
            let mut y = copy(&unscaled);
            each_row(&mut y, patch.output_scale.as_ref(), cpu::scale_row)?;
            each_row(&mut y, patch.bias.as_ref().or(bias), cpu::add_row)?;
            each_row(&mut y, patch.rescale_output.as_ref(), cpu::scale_row)?;
            (y, Some(unscaled))
        }
    };
    let matters = x.id.is_some() || adapter.is_some();
    Ok(tape.result(y, width, matters, |y| match adapter {
        Some(adapter) => {
            let made = Made { x: x.clone(), layer: layer.clone(), adapter, unscaled };
            Record::Linear { made: Box::new(made), y }
        }
        None => Record::Base { x: x.id, weight: layer.weight.clone(), y },
    }))
}

/// The product of many lines, by a patch without scales of its outputs.
fn product_of_many(x: &Tracked, layer: &Linear, patch: Option<&LinearPatch>, bias: Option<&Tensor>) -> Result<Buffer> {
    let (lines, inputs) = (x.lines(), x.width);
    let weight = patch.and_then(|patch| patch.weight.as_ref()).unwrap_or(layer.weight.on_host());
    let outputs = weight.dims()[0];
    let mut y = Buffer::new(lines * outputs);
    let mut times = |x: &[f32], keep: f32, scale: f32, matrix: &Tensor| {
        let (rows, width) = matrix.dims2()?;
        with_f32(matrix, |matrix| {
            multiply(Matrix::new(x, lines, width), Matrix::new(matrix, rows, width).across(), keep, scale, &mut y);
            Ok(())
        })
    };
    match patch.and_then(|patch| patch.rescale_input.as_ref()) {
        None => times(x, 0.0, 1.0, weight)?,
        Some(scale) => {
            let mut scaled = copy(x);
            each_row(&mut scaled, Some(scale), cpu::scale_row)?;
            times(&scaled, 0.0, 1.0, weight)?;
        }
    }
    if let Some(LowRank { a, b, scale }) = patch.and_then(|patch| patch.low_rank.as_ref()) {
        let rank = a.dims()[0];
        let mut shrunk = Buffer::new(lines * rank);
        with_f32(a, |a| {
            multiply(Matrix::new(x, lines, inputs), Matrix::new(a, rank, inputs).across(), 0.0, 1.0, &mut shrunk);
            Ok(())
        })?;
        times(&shrunk, 1.0, *scale, b)?;
    }
    each_row(&mut y, patch.and_then(|patch| patch.bias.as_ref()).or(bias), cpu::add_row)?;
    Ok(y)
}

fn each_row(y: &mut [f32], row: Option<&Tensor>, f: fn(&mut [f32], cpu::Floats<'_>)) -> Result<()> {
    row.map_or(Ok(()), |row| with_floats(row, |row| f(y, row)))
}

impl Made {
    /// The gradient of x, if anybody asks for it; those of the adapter's change are added to `gradients`.
    pub fn back(self, mut d: Buffer, gradients: &mut Gradients) -> Result<Option<Buffer>> {
        let Self { x, layer, adapter, unscaled } = self;
        let (lines, outputs, inputs) = (x.lines(), layer.weight.dims()[0], x.width);
        let Some(patch) = adapter.patch(layer.site) else { candle_core::bail!("an adapter lost its patch") };
        let own = gradients.of(layer.site);

        if let Some(unscaled) = &unscaled {
            scales_back(patch, layer.bias.as_ref().map(Weight::on_host), unscaled, &mut d, own)?;
        } else if patch.bias.is_some() {
            columns_add(&mut own.bias, outputs, d.chunks_exact(outputs), |sum, d| *sum += d);
        }
        let mut dx = None;
        if let Some(low_rank) = &patch.low_rank {
            let mut of_x = x.id.is_some().then(|| zeros(x.len()));
            low_rank_back(low_rank, &x, &d, of_x.as_deref_mut(), own)?;
            dx = of_x;
        }
        if let Some(weight) = &patch.weight {
            let mut scaled = copy(&x);
            each_row(&mut scaled, patch.rescale_input.as_ref(), cpu::scale_row)?;
            let sum = own.weight.get_or_insert_with(|| vec![0.0; weight.elem_count()]);
            multiply(Matrix::new(&d, lines, outputs).across(), Matrix::new(&scaled, lines, inputs), 1.0, 1.0, sum);
        }
        if x.id.is_none() && patch.rescale_input.is_none() {
            return Ok(None);
        }
        let mut of_base = of_base(patch.weight.as_ref().unwrap_or(layer.weight.on_host()), &d)?;
        if let Some(scale) = &patch.rescale_input {
            let pairs = of_base.chunks_exact(inputs).zip(x.chunks_exact(inputs));
            let sum = own.rescale_input.get_or_insert_with(|| vec![0.0; inputs]);
            for (d, x) in pairs {
                sum.iter_mut().zip(d).zip(x).for_each(|((sum, d), x)| *sum += d * x);
            }
            with_floats(scale, |scale| cpu::scale_row(&mut of_base, scale))?;
        }
        if let Some(dx) = &dx {
            cpu::add(&mut of_base, dx);
        }
        Ok(x.id.map(|_| of_base))
    }

    /// Bytes kept of what was computed.
    pub fn kept_bytes(&self) -> usize {
        let unscaled = self.unscaled.as_ref().map_or(0, |unscaled| size_of_val::<[f32]>(unscaled));
        self.x.bytes() + unscaled
    }
}

impl Gradients {
    fn of(&mut self, site: SiteId) -> &mut PatchGradients {
        self.patches.entry(site).or_default()
    }
}

fn zeros(len: usize) -> Buffer {
    let mut zeros = Buffer::new(len);
    zeros.fill(0.0);
    zeros
}

/// `d·W` of a weight [outputs, inputs].
pub fn of_base(weight: &Tensor, d: &[f32]) -> Result<Buffer> {
    let (outputs, inputs) = weight.dims2()?;
    let lines = d.len() / outputs;
    let mut dx = Buffer::new(lines * inputs);
    with_floats(weight, |weight| linear_back(d, weight, &mut dx, lines, inputs, outputs))?;
    Ok(dx)
}

/// Adds something of every line to a sum for each column.
fn columns_add<'a, T: 'a>(
    sum: &mut Option<Vec<f32>>,
    width: usize,
    lines: impl Iterator<Item = &'a [T]>,
    f: impl Fn(&mut f32, &T),
) {
    let sum = sum.get_or_insert_with(|| vec![0.0; width]);
    lines.for_each(|line| sum.iter_mut().zip(line).for_each(|(sum, x)| f(sum, x)));
}

/// Makes of the gradient of `rescale ⊙ (scale ⊙ u + bias)` that of u, and adds those of the rows.
fn scales_back(
    patch: &LinearPatch,
    bias: Option<&Tensor>,
    unscaled: &[f32],
    d: &mut [f32],
    own: &mut PatchGradients,
) -> Result<()> {
    let width = match patch.output_scale.as_ref().or(patch.rescale_output.as_ref()) {
        Some(row) => row.elem_count(),
        None => return Ok(()),
    };
    if let Some(rescale) = &patch.rescale_output {
        let mut before = copy(unscaled);
        each_row(&mut before, patch.output_scale.as_ref(), cpu::scale_row)?;
        each_row(&mut before, patch.bias.as_ref().or(bias), cpu::add_row)?;
        products_add(&mut own.rescale_output, width, d, &before);
        each_row(d, Some(rescale), cpu::scale_row)?;
    }
    if patch.bias.is_some() {
        columns_add(&mut own.bias, width, d.chunks_exact(width), |sum, d| *sum += d);
    }
    if let Some(scale) = &patch.output_scale {
        products_add(&mut own.output_scale, width, d, unscaled);
        each_row(d, Some(scale), cpu::scale_row)?;
    }
    Ok(())
}

/// Adds up the products of two matrices' numbers by column.
fn products_add(sum: &mut Option<Vec<f32>>, width: usize, a: &[f32], b: &[f32]) {
    let sum = sum.get_or_insert_with(|| vec![0.0; width]);
    for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
        sum.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }
}

/// Of `scale · B(A·x)` and d [lines, out]: adds A's and B's gradients, and x's.
fn low_rank_back(
    low_rank: &LowRank,
    x: &Tracked,
    d: &[f32],
    dx: Option<&mut [f32]>,
    own: &mut PatchGradients,
) -> Result<()> {
    let LowRank { a, b, scale } = low_rank;
    let ((rank, inputs), outputs, lines) = (a.dims2()?, b.dims()[0], x.lines());
    with_f32(a, |a| {
        with_f32(b, |b| {
            let (x, d) = (Matrix::new(x, lines, inputs), Matrix::new(d, lines, outputs));
            let (a, b) = (Matrix::new(a, rank, inputs), Matrix::new(b, outputs, rank));
            let [mut shrunk, mut of_shrunk] = [0, 1].map(|_| Buffer::new(lines * rank));
            multiply(x, a.across(), 0.0, 1.0, &mut shrunk);
            multiply(d, b, 0.0, *scale, &mut of_shrunk);
            let (shrunk, of_shrunk) = (Matrix::new(&shrunk, lines, rank), Matrix::new(&of_shrunk, lines, rank));
            let of_b = own.b.get_or_insert_with(|| vec![0.0; outputs * rank]);
            multiply(d.across(), shrunk, 1.0, *scale, of_b);
            let of_a = own.a.get_or_insert_with(|| vec![0.0; rank * inputs]);
            multiply(of_shrunk.across(), x, 1.0, 1.0, of_a);
            if let Some(dx) = dx {
                multiply(of_shrunk, a, 1.0, 1.0, dx);
            }
            Ok(())
        })
    })
}
