//! Learned keys and values that stand before every layer's own.

use candle_core::Tensor;

/// Prefix tuning: `count` cached keys and values per layer, without rotary embedding.
#[derive(Clone, Debug)]
pub struct KeyValuePrefix {
    /// Per layer, keys [count, kv_heads, head_dim], as stored.
    pub keys: Vec<Tensor>,
    /// Per layer, values [count, kv_heads, head_dim], as stored.
    pub values: Vec<Tensor>,
    pub count: usize,
}
