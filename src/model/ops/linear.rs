//! Linear sites and heads, with the adapters of a step.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use crate::adapter::apply::{PatchedLines, SiteWeights, apply_head, apply_linear};
use crate::device::{f32_slice, with_f32};
use crate::model::layers::Linear;
use crate::model::{Batch, Output, Segment};
use crate::profile::{self, Part};

/// `y` [lines, out] of `x` [lines, in] at a linear site; `segments` say whose lines they are.
pub fn linear(x: &Tensor, layer: &Linear, segments: &[Segment]) -> Result<Tensor> {
    x.apply_op1_no_bwd(&AdaptedLinear { layer, segments })
}

struct AdaptedLinear<'a> {
    layer: &'a Linear,
    segments: &'a [Segment],
}

impl CustomOp1 for AdaptedLinear<'_> {
    fn name(&self) -> &'static str {
        "adapted-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32_slice(storage, layout)?;
        let (outputs, inputs) = self.layer.weight.dims2()?;
        let lines = x.len() / inputs;
        let segments: Vec<_> = self
            .segments
            .iter()
            .map(|segment| PatchedLines {
                lines: segment.lines.clone(),
                patch: segment.adapter.as_ref().and_then(|adapter| adapter.patch(self.layer.site)),
            })
            .collect();
        let mut y = vec![0.0; lines * outputs];
        let site = SiteWeights { weight: &self.layer.weight, bias: self.layer.bias.as_ref() };
        apply_linear(x, &mut y, site, &segments)?;
        Ok((CpuStorage::F32(y), Shape::from((lines, outputs))))
    }
}

/// Raw label scores for each line of `x` [rows that want scores, hidden], by its row's head.
pub fn head_scores(x: &Tensor, batch: &Batch) -> Result<Vec<Vec<f32>>> {
    let _timer = profile::time(Part::Heads);
    let hidden = x.dims2()?.1;
    with_f32(x, |x| {
        batch
            .rows_that_want(Output::Scores)
            .zip(x.chunks_exact(hidden))
            .map(|(row, x)| match row.adapter.as_ref().and_then(|adapter| adapter.head.as_ref()) {
                Some(head) => apply_head(x, head),
                None => candle_core::bail!("scores were asked of a row without a head"),
            })
            .collect()
    })
}
