//! The Llama family in one body: Llama, Mistral, Qwen2 (attention bias), Qwen3 (query and key norms).

use std::sync::Arc;

use candle_core::{Result, Tensor};
use repertoire_kernels::cpu::{Activation, Rotation};

use crate::adapter::{Projection, Site, SiteMap};
use crate::device::Activations;

use super::layers::{Heads, Linear, Norm};
use super::load::{Builder, LoadError, ModelConfig, Naming};
use super::{BaseModel, Batch, KvShape, KvStore, Outputs, ops};

/// A decoder with rotary positions, RMS norms and a gated feed-forward. arXiv 2302.13971.
pub struct Llama {
    sites: Arc<SiteMap>,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
    heads: Heads,
    activation: Activation,
    inverse_frequencies: Vec<f32>,
}

struct Layer {
    input_norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    output: Linear,
    feed_forward_norm: Norm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Llama {
    /// Reads the weights.
    pub fn load(mut builder: Builder<'_>, config: &ModelConfig) -> std::result::Result<Self, LoadError> {
        let embedding = builder.get("model.embed_tokens.weight", &[config.vocab, config.hidden])?;
        let layers =
            (0..config.layers).map(|i| Layer::load(&mut builder, config, i)).collect::<std::result::Result<_, _>>()?;
        let norm = builder.rms_norm("model.norm", config.hidden)?;
        let head = builder.decoder_head(&embedding)?;
        let naming = Naming {
            backbone: "model",
            head: "score",
            embedding: "model.embed_tokens",
            causal: true,
            missing_pooler: false,
        };
        Ok(Self {
            sites: builder.finish(naming, embedding.clone(), None),
            embedding,
            layers,
            norm,
            head,
            heads: Heads { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim },
            activation: config.activation,
            inverse_frequencies: config.inverse_frequencies.clone(),
        })
    }
}

impl Layer {
    fn load(builder: &mut Builder<'_>, config: &ModelConfig, index: usize) -> std::result::Result<Self, LoadError> {
        let (hidden, queries, keys) =
            (config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let at = format!("model.layers.{index}");
        let mut linear = |projection, module: &str, inputs, outputs| {
            let site = Site { layer: Some(index), projection };
            builder.linear(site, &format!("{at}.{module}"), inputs, outputs, false)
        };
        let query = linear(Projection::Query, "self_attn.q_proj", hidden, queries)?;
        let key = linear(Projection::Key, "self_attn.k_proj", hidden, keys)?;
        let value = linear(Projection::Value, "self_attn.v_proj", hidden, keys)?;
        let output = linear(Projection::AttentionOutput, "self_attn.o_proj", queries, hidden)?;
        let gate = linear(Projection::Gate, "mlp.gate_proj", hidden, config.intermediate)?;
        let up = linear(Projection::Up, "mlp.up_proj", hidden, config.intermediate)?;
        let down = linear(Projection::Down, "mlp.down_proj", config.intermediate, hidden)?;
        let mut head_norm = |module: &str| match config.family.as_str() {
            "qwen3" => builder.rms_norm(&format!("{at}.self_attn.{module}"), config.head_dim).map(Some),
            _ => Ok(None),
        };
        let (query_norm, key_norm) = (head_norm("q_norm")?, head_norm("k_norm")?);
        let input_norm = builder.rms_norm(&format!("{at}.input_layernorm"), hidden)?;
        let feed_forward_norm = builder.rms_norm(&format!("{at}.post_attention_layernorm"), hidden)?;
        Ok(Self { input_norm, query, key, value, query_norm, key_norm, output, feed_forward_norm, gate, up, down })
    }
}

impl BaseModel for Llama {
    fn sites(&self) -> &Arc<SiteMap> {
        &self.sites
    }

    fn kv_shape(&self) -> Option<KvShape> {
        let Heads { kv_heads, head_dim, .. } = self.heads;
        Some(KvShape { layers: self.layers.len(), kv_heads, head_dim })
    }

    fn forward(&self, batch: &Batch, kv: &mut KvStore) -> Result<Outputs> {
        let rotation = Rotation::new(&batch.positions, &self.inverse_frequencies);
        let mut x = ops::embed(&self.embedding, batch)?; // [tokens, hidden]
        for (index, layer) in self.layers.iter().enumerate() {
            let attended = self.attention(layer, index, &x, &rotation, batch, kv)?;
            x = ops::add(x, &attended)?;
            let normed = ops::norm(&x, &layer.feed_forward_norm)?;
            let [gate, up] = ops::linear_group(&normed, [&layer.gate, &layer.up], &batch.segments)?;
            let gated = ops::gate(gate, &up, self.activation)?; // [tokens, intermediate]
            x = ops::add(x, &ops::linear(&gated, &layer.down, &batch.segments)?)?;
        }
        ops::decoder_outputs(&x, &self.norm, &self.head, batch)
    }
}

impl Llama {
    fn attention(
        &self,
        layer: &Layer,
        index: usize,
        x: &Activations,
        rotation: &Rotation,
        batch: &Batch,
        kv: &mut KvStore,
    ) -> Result<Activations> {
        let normed = ops::norm(x, &layer.input_norm)?;
        // [tokens, heads · head_dim], and two of [tokens, kv_heads · head_dim].
        let [mut query, mut key, value] =
            ops::linear_group(&normed, [&layer.query, &layer.key, &layer.value], &batch.segments)?;
        if let (Some(query_norm), Some(key_norm)) = (&layer.query_norm, &layer.key_norm) {
            query = ops::norm(&query, query_norm)?;
            key = ops::norm(&key, key_norm)?;
        }
        let query = ops::rotate(query, rotation, self.heads.head_dim)?;
        let key = ops::rotate(key, rotation, self.heads.head_dim)?;
        ops::write_kv(&key, &value, index, batch, kv)?;
        let attended = ops::attend_cached(&query, index, self.heads, batch, kv)?;
        ops::linear(&attended, &layer.output, &batch.segments)
    }
}
