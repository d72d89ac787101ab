//! The weights of a block's parts.

use candle_core::Tensor;

use crate::adapter::SiteId;

/// A linear layer; adapters find it by `site`.
#[derive(Clone, Debug)]
pub struct Linear {
    pub site: SiteId,
    /// [out, in].
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

/// A normalisation over the last dimension.
#[derive(Clone, Debug)]
pub enum Norm {
    Rms { weight: Tensor, eps: f32 },
    Layer { weight: Tensor, bias: Tensor, eps: f32 },
}

/// How attention heads are laid out in a block.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}
