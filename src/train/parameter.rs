//! Numbers that learn.

use crate::adapter::SiteId;

use super::Moments;

/// One tensor of an adapter, as PEFT's file has it, and what the optimiser remembers of it.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub place: Place,
    pub shape: Vec<usize>,
    pub numbers: Vec<f32>,
    pub moments: Moments,
}

/// Where a parameter belongs in an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// LoRA's A, [rank, in].
    LowRankA(SiteId),
    /// LoRA's B, [out, rank].
    LowRankB(SiteId),
    /// DoRA's m, `[out]`: its output scale times the norm of the changed weight's rows.
    Magnitude(SiteId),
    /// IA3's, `[in]`.
    RescaleInput(SiteId),
    /// IA3's, `[out]`.
    RescaleOutput(SiteId),
    /// In place of the base's.
    Weight(SiteId),
    Bias(SiteId),
    /// [count, hidden].
    VirtualTokens,
    /// Of a layer, [count, kv_heads, head_dim].
    PrefixKeys(usize),
    PrefixValues(usize),
    /// [labels, hidden].
    HeadWeight,
    HeadBias,
}
