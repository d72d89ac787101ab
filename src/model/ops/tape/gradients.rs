//! What a step says of an adapter's parts.

use std::collections::BTreeMap;

use crate::adapter::SiteId;

/// The gradients of an adapter's parts, each as many numbers as the part has, in its order. Absent where nothing was said.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    pub patches: BTreeMap<SiteId, PatchGradients>,
    /// [count, hidden].
    pub virtual_tokens: Option<Vec<f32>>,
    /// By layer: keys and values, each [count, kv_heads, head_dim].
    pub prefix: BTreeMap<usize, [Vec<f32>; 2]>,
    pub head: Option<HeadGradients>,
}

/// Those of the change at a linear site; named as [`crate::adapter::LinearPatch`]'s parts.
#[derive(Clone, Debug, Default)]
pub struct PatchGradients {
    pub a: Option<Vec<f32>>,
    pub b: Option<Vec<f32>>,
    /// Of the scale itself: DoRA's magnitude gets it divided by the norm, which is a constant there, as in PEFT.
    pub output_scale: Option<Vec<f32>>,
    pub rescale_input: Option<Vec<f32>>,
    pub rescale_output: Option<Vec<f32>>,
    pub weight: Option<Vec<f32>>,
    pub bias: Option<Vec<f32>>,
}

/// Those of a classification head.
#[derive(Clone, Debug)]
pub struct HeadGradients {
    /// [labels, hidden].
    pub weight: Vec<f32>,
    /// `[labels]`.
    pub bias: Vec<f32>,
}
