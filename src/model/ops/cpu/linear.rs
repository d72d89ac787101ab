//! Linear sites and heads, with the adapters of a step.

use candle_core::Result;

use crate::adapter::apply::{PatchedSite, apply_head, apply_linear};
use crate::device::{Activations, Weight, with_f32};
use crate::model::layers::Linear;
use crate::model::{Batch, Output, Segment};
use crate::profile::{self, Part};

/// `y` [lines, out] of `x` [lines, in] at linear sites that read the same `x`, all in one go; `segments` say whose lines they are.
pub fn linear_group<const N: usize>(
    x: &Activations,
    layers: [&Linear; N],
    segments: &[Segment],
) -> Result<[Activations; N]> {
    let sites = layers.map(|layer| {
        let patches = segments.iter().filter_map(|segment| {
            let patch = segment.adapter.as_ref()?.patch(layer.site)?;
            Some((segment.lines.clone(), patch))
        });
        let bias = layer.bias.as_ref().map(Weight::on_host);
        PatchedSite { weight: layer.weight.on_host(), bias, patches: patches.collect() }
    });
    let ys = with_f32(x, |x| apply_linear(x, sites))?;
    let lines = x.dims()[0];
    let all = ys.into_iter().zip(layers).map(|(y, layer)| Activations::new(y, lines, layer.weight.dims()[0]));
    let all = all.collect::<Result<Vec<_>>>()?;
    all.try_into().map_err(|_| candle_core::Error::Msg("a group has as many results as layers".into()))
}

/// Raw label scores for each line of `x` [rows that want scores, hidden], by its row's head.
pub fn head_scores(x: &Activations, batch: &Batch) -> Result<Vec<Vec<f32>>> {
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
