//! The weights of a block's parts.

use crate::adapter::SiteId;
use crate::device::Weight;

/// A linear layer; adapters find it by `site`.
#[derive(Clone, Debug)]
pub struct Linear {
    pub site: SiteId,
    /// [out, in].
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Weight>,
}

/// A normalisation over the last dimension.
#[derive(Clone, Debug)]
pub enum Norm {
    Rms { weight: Weight, eps: f32 },
    Layer { weight: Weight, bias: Weight, eps: f32 },
}

/// What a token's first line is the sum of.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// [vocab, hidden].
    pub words: Weight,
    /// Learned positions, [context, hidden].
    pub positions: Option<Weight>,
    /// Added to every token, `[hidden]`.
    pub for_all: Option<Weight>,
}

/// How attention heads are laid out in a block.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// What happens to queries and keys before a decoder attends.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    pub heads: Heads,
    /// Norms of each head of the queries and of the keys.
    pub norms: Option<[&'a Norm; 2]>,
    /// Inverse frequencies [head_dim / 2] of a rotary embedding.
    pub rotary: Option<&'a Weight>,
}
