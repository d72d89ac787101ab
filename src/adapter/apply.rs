//! Applies adapters on the CPU, row by row of a matrix, in the order of PEFT's own operations.

use std::ops::Range;

use candle_core::{Result, Tensor};
use repertoire_kernels::cpu::{self, Floats, LowRank, Member, Patch};

use crate::device::{Buffer, OpenTensor, with_floats};
use crate::profile::{self, Part};

use super::LinearPatch;

/// What a linear site does, `y = x·Wᵀ + b`, and what adapters change about it.
pub struct PatchedSite<'a> {
    /// [out, in].
    pub weight: &'a Tensor,
    /// `[out]`.
    pub bias: Option<&'a Tensor>,
    /// The lines of adapters that change this site, in order.
    pub patches: Vec<(Range<usize>, &'a LinearPatch)>,
}

/// Computes [lines, out] of `x` [lines, in] at each of some sites that read the same input.
pub fn apply_linear<const N: usize>(x: &[f32], sites: [PatchedSite<'_>; N]) -> Result<[Buffer; N]> {
    let inputs = match sites.first() {
        Some(site) => site.weight.dims2()?.1,
        None => return Ok([(); N].map(|()| Buffer::new(0))),
    };
    let lines = x.len() / inputs;
    let mut ys = [(); N].map(|()| Buffer::new(0));
    let mut opened = Vec::with_capacity(N);
    for (y, site) in ys.iter_mut().zip(&sites) {
        *y = Buffer::new(lines * site.weight.dims()[0]);
        opened.push(OpenSite::new(x, inputs, site)?);
    }
    let members = opened.iter().zip(&mut ys).map(|(site, y)| site.member(x, y));
    let mut members = members.collect::<Result<Vec<_>>>()?;
    let mut scratch = Buffer::new(cpu::scratch_len(&members));
    profile::time_both(Part::Linear, Part::Adapters, |measure| {
        cpu::linear_group(inputs, &mut members, &mut scratch, measure)
    });
    drop(members);
    Ok(ys)
}

/// A site whose tensors can be read.
struct OpenSite<'a> {
    /// The inputs, where adapters rescale them.
    x: Option<Buffer>,
    weight: OpenTensor<'a>,
    bias: Option<OpenTensor<'a>>,
    patches: Vec<OpenPatch<'a>>,
}

impl<'a> OpenSite<'a> {
    fn new(x: &[f32], inputs: usize, site: &'a PatchedSite<'_>) -> Result<Self> {
        Ok(Self {
            x: rescale_inputs(x, inputs, &site.patches)?,
            weight: OpenTensor::new(site.weight),
            bias: site.bias.map(OpenTensor::new),
            patches: site.patches.iter().map(|(lines, patch)| OpenPatch::new(lines, patch)).collect(),
        })
    }

    fn member<'b>(&'b self, x: &'b [f32], y: &'b mut [f32]) -> Result<Member<'b>> {
        Ok(Member {
            x: self.x.as_deref().unwrap_or(x),
            weight: self.weight.floats()?,
            bias: self.bias.as_ref().map(OpenTensor::floats).transpose()?,
            patches: self.patches.iter().map(OpenPatch::patch).collect::<Result<_>>()?,
            y,
        })
    }
}

/// The inputs as the base's product sees them, if an adapter scales them (IA3, feed-forward).
fn rescale_inputs(x: &[f32], inputs: usize, patches: &[(Range<usize>, &LinearPatch)]) -> Result<Option<Buffer>> {
    let mut rescaled = None;
    for (lines, patch) in patches {
        let Some(scale) = &patch.rescale_input else { continue };
        let _timer = profile::time(Part::Adapters);
        let all = rescaled.get_or_insert_with(|| {
            let mut all = Buffer::new(x.len());
            all.copy_from_slice(x);
            all
        });
        let lines = &mut all[lines.start * inputs..lines.end * inputs];
        with_floats(scale, |scale| cpu::scale_row(lines, scale))?;
    }
    Ok(rescaled)
}

/// A patch whose tensors can be read.
struct OpenPatch<'a> {
    lines: Range<usize>,
    weight: Option<OpenTensor<'a>>,
    bias: Option<OpenTensor<'a>>,
    low_rank: Option<OpenLowRank<'a>>,
    scale: Option<OpenTensor<'a>>,
    rescale: Option<OpenTensor<'a>>,
}

struct OpenLowRank<'a> {
    a: OpenTensor<'a>,
    b: OpenTensor<'a>,
    rank: usize,
    scale: f32,
}

impl<'a> OpenPatch<'a> {
    fn new(lines: &Range<usize>, patch: &'a LinearPatch) -> Self {
        let open = |tensor: &'a Option<Tensor>| tensor.as_ref().map(OpenTensor::new);
        Self {
            lines: lines.clone(),
            weight: open(&patch.weight),
            bias: open(&patch.bias),
            low_rank: patch.low_rank.as_ref().map(|low_rank| OpenLowRank {
                a: OpenTensor::new(&low_rank.a),
                b: OpenTensor::new(&low_rank.b),
                rank: low_rank.a.dims()[0],
                scale: low_rank.scale,
            }),
            scale: open(&patch.output_scale),
            rescale: open(&patch.rescale_output),
        }
    }

    fn patch(&self) -> Result<Patch<'_>> {
        fn floats<'b>(tensor: &'b Option<OpenTensor<'_>>) -> Result<Option<Floats<'b>>> {
            tensor.as_ref().map(OpenTensor::floats).transpose()
        }
        let low_rank = match &self.low_rank {
            Some(OpenLowRank { a, b, rank, scale }) => {
                Some(LowRank { a: a.floats()?, b: b.floats()?, rank: *rank, scale: *scale })
            }
            None => None,
        };
        Ok(Patch {
            lines: self.lines.clone(),
            weight: floats(&self.weight)?,
            bias: floats(&self.bias)?,
            low_rank,
            scale: floats(&self.scale)?,
            rescale: floats(&self.rescale)?,
        })
    }
}

/// Makes of the base's embedding of a token `[hidden]` an adapter's.
pub fn apply_embedding(token: usize, patch: &super::EmbeddingPatch, line: &mut [f32]) -> Result<()> {
    if let Some(table) = &patch.weight {
        let hidden = line.len();
        with_floats(table, |table| table.row(token, hidden).copy_to(line))?;
    }
    if let Some(low_rank) = &patch.low_rank {
        let rank = low_rank.a.dims2()?.1;
        let mut shrunk = vec![0.0; rank];
        with_floats(&low_rank.a, |a| a.row(token, rank).copy_to(&mut shrunk))?;
        with_floats(&low_rank.b, |b| cpu::expand(&shrunk, b, line, low_rank.scale))?;
    }
    if let Some(scale) = &patch.output_scale {
        with_floats(scale, |scale| cpu::scale_row(line, scale))?;
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

/// Virtual token `index` of an adapter, `[hidden]`.
pub fn copy_virtual(adapter: Option<&super::Adapter>, index: usize, out: &mut [f32]) -> Result<()> {
    let hidden = out.len();
    let Some(virtual_tokens) = adapter.and_then(|adapter| adapter.virtual_tokens.as_ref()) else {
        candle_core::bail!("token id beyond the vocabulary in a row without virtual tokens");
    };
    if index >= virtual_tokens.count() {
        candle_core::bail!("virtual token {index} of {}", virtual_tokens.count());
    }
    with_floats(&virtual_tokens.embeddings, |rows| rows.row(index, hidden).copy_to(out))
}
