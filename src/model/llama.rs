//! The Llama family in one body: Llama, Mistral, Qwen2 (attention bias), Qwen3 (query and key norms).

use std::sync::Arc;

use candle_core::Result;
use repertoire_kernels::cpu::Activation;

use crate::adapter::{Projection, Site, SiteMap};
use crate::device::Weight;

use super::layers::{Attention, Embedding, Heads, Linear, Norm};
use super::load::{Builder, LoadError, ModelConfig, Naming};
use super::ops::Ops;

/// A decoder with rotary positions, RMS norms and a gated feed-forward. arXiv 2302.13971.
pub struct Llama {
    sites: Arc<SiteMap>,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
    heads: Heads,
    activation: Activation,
    /// [head_dim / 2].
    inverse_frequencies: Weight,
}

struct Layer {
    input_norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    /// Of each head of the queries and of the keys.
    head_norms: Option<[Norm; 2]>,
    output: Linear,
    feed_forward_norm: Norm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Llama {
    /// Reads the weights.
    pub fn load(mut builder: Builder<'_>, config: &ModelConfig) -> std::result::Result<Self, LoadError> {
        let words = builder.weight("model.embed_tokens.weight", &[config.vocab, config.hidden])?;
        let layers =
            (0..config.layers).map(|i| Layer::load(&mut builder, config, i)).collect::<std::result::Result<_, _>>()?;
        let norm = builder.rms_norm("model.norm", config.hidden)?;
        let head = builder.decoder_head(&words)?;
        let inverse_frequencies = builder.place_f32(&config.inverse_frequencies)?;
        let naming = Naming {
            backbone: "model",
            head: "score",
            embedding: "model.embed_tokens",
            causal: true,
            missing_pooler: false,
        };
        Ok(Self {
            sites: builder.finish(naming, words.clone(), None),
            embedding: Embedding { words, positions: None, for_all: None },
            layers,
            norm,
            head,
            heads: Heads { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim },
            activation: config.activation,
            inverse_frequencies,
        })
    }
}

impl Layer {
    fn load(builder: &mut Builder<'_>, config: &ModelConfig, index: usize) -> std::result::Result<Self, LoadError> {
        let (hidden, queries, keys) =
            (config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let at = format!("model.layers.{index}");
        let site = |projection| Site { layer: Some(index), projection };
        let module = |name: &str| format!("{at}.{name}");
        let [query, key, value] = builder.linear_group(
            hidden,
            [
                (site(Projection::Query), &module("self_attn.q_proj"), queries),
                (site(Projection::Key), &module("self_attn.k_proj"), keys),
                (site(Projection::Value), &module("self_attn.v_proj"), keys),
            ],
            false,
        )?;
        let output = module("self_attn.o_proj");
        let output = builder.linear(site(Projection::AttentionOutput), &output, queries, hidden, false)?;
        let [gate, up] = builder.linear_group(
            hidden,
            [
                (site(Projection::Gate), &module("mlp.gate_proj"), config.intermediate),
                (site(Projection::Up), &module("mlp.up_proj"), config.intermediate),
            ],
            false,
        )?;
        let down = module("mlp.down_proj");
        let down = builder.linear(site(Projection::Down), &down, config.intermediate, hidden, false)?;
        let head_norms = match config.family.as_str() {
            "qwen3" => Some([
                builder.rms_norm(&module("self_attn.q_norm"), config.head_dim)?,
                builder.rms_norm(&module("self_attn.k_norm"), config.head_dim)?,
            ]),
            _ => None,
        };
        let input_norm = builder.rms_norm(&module("input_layernorm"), hidden)?;
        let feed_forward_norm = builder.rms_norm(&module("post_attention_layernorm"), hidden)?;
        Ok(Self { input_norm, query, key, value, head_norms, output, feed_forward_norm, gate, up, down })
    }
}

impl Llama {
    /// Shape and names.
    pub fn sites(&self) -> &Arc<SiteMap> {
        &self.sites
    }

    /// The sum before the first layer: [tokens, hidden].
    pub fn embed<O: Ops>(&self, ops: &mut O) -> Result<O::Matrix> {
        ops.embed(&self.embedding)
    }

    /// The sum after a layer.
    pub fn layer<O: Ops>(&self, ops: &mut O, index: usize, x: O::Matrix) -> Result<O::Matrix> {
        let layer = &self.layers[index];
        // [tokens, heads · head_dim], and two of [tokens, kv_heads · head_dim].
        let qkv = ops.normed_group(&x, &layer.input_norm, [&layer.query, &layer.key, &layer.value])?;
        let norms = layer.head_norms.as_ref().map(|[query, key]| [query, key]);
        let rotary = Some(&self.inverse_frequencies);
        let attended = ops.attend(index, qkv, Attention { heads: self.heads, norms, rotary })?;
        let x = ops.add_linear(x, &attended, &layer.output)?;

        // [tokens, intermediate]
        let gated = ops.normed_gated(&x, &layer.feed_forward_norm, [&layer.gate, &layer.up], self.activation)?;
        ops.add_linear(x, &gated, &layer.down)
    }

    /// What the sum after the last layer answers.
    pub fn answer<O: Ops>(&self, ops: O, x: O::Matrix) -> Result<O::Answer> {
        ops.answer_decoder(x, &self.norm, &self.head)
    }
}
