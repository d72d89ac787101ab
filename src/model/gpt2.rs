//! GPT-2 (ruGPT-3's architecture): learned positions, layer norms, Conv1D weights.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use repertoire_kernels::cpu::Activation;

use crate::adapter::{EmbeddingSite, Projection, Site, SiteMap};

use super::layers::{Heads, Linear, Norm};
use super::load::{Builder, LoadError, ModelConfig, Naming};
use super::{BaseModel, Batch, KvShape, KvStore, Outputs, ops};

/// A decoder with learned positions.
pub struct Gpt2 {
    sites: Arc<SiteMap>,
    embedding: Tensor,
    /// [context, hidden].
    positions: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
    heads: Heads,
    activation: Activation,
}

struct Layer {
    attention_norm: Norm,
    /// Query, key and value in one.
    attention: Linear,
    output: Linear,
    feed_forward_norm: Norm,
    up: Linear,
    down: Linear,
}

impl Gpt2 {
    /// Reads the weights.
    pub fn load(mut builder: Builder<'_>, config: &ModelConfig) -> std::result::Result<Self, LoadError> {
        let embedding = builder.get("transformer.wte.weight", &[config.vocab, config.hidden])?;
        let positions = builder.get("transformer.wpe.weight", &[config.context, config.hidden])?;
        let layers =
            (0..config.layers).map(|i| Layer::load(&mut builder, config, i)).collect::<std::result::Result<_, _>>()?;
        let norm = builder.layer_norm("transformer.ln_f", config.hidden)?;
        let head = builder.decoder_head(&embedding)?;
        let naming = Naming {
            backbone: "transformer",
            head: "score",
            embedding: "transformer.wte",
            causal: true,
            missing_pooler: false,
        };
        let position_site = EmbeddingSite { module: "transformer.wpe".into(), weight: positions.clone() };
        Ok(Self {
            sites: builder.finish(naming, embedding.clone(), Some(position_site)),
            embedding,
            positions,
            layers,
            norm,
            head,
            heads: Heads { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim },
            activation: config.activation,
        })
    }
}

impl Layer {
    fn load(builder: &mut Builder<'_>, config: &ModelConfig, index: usize) -> std::result::Result<Self, LoadError> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let at = format!("transformer.h.{index}");
        let mut linear = |projection, module: &str, inputs, outputs| {
            let site = Site { layer: Some(index), projection };
            builder.linear(site, &format!("{at}.{module}"), inputs, outputs, true)
        };
        Ok(Self {
            attention: linear(Projection::QueryKeyValue, "attn.c_attn", hidden, 3 * hidden)?,
            output: linear(Projection::AttentionOutput, "attn.c_proj", hidden, hidden)?,
            up: linear(Projection::Up, "mlp.c_fc", hidden, intermediate)?,
            down: linear(Projection::Down, "mlp.c_proj", intermediate, hidden)?,
            attention_norm: builder.layer_norm(&format!("{at}.ln_1"), hidden)?,
            feed_forward_norm: builder.layer_norm(&format!("{at}.ln_2"), hidden)?,
        })
    }
}

impl BaseModel for Gpt2 {
    fn sites(&self) -> &Arc<SiteMap> {
        &self.sites
    }

    fn kv_shape(&self) -> Option<KvShape> {
        let Heads { kv_heads, head_dim, .. } = self.heads;
        Some(KvShape { layers: self.layers.len(), kv_heads, head_dim })
    }

    fn forward(&self, batch: &Batch, kv: &mut KvStore) -> Result<Outputs> {
        let words = ops::embed(&self.embedding, batch)?; // [tokens, hidden]
        let mut x = ops::add(words, &ops::embed_positions(&self.positions, batch)?)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = ops::norm(&x, &layer.attention_norm)?;
            let fused = ops::linear(&normed, &layer.attention, &batch.segments)?; // [tokens, 3 · hidden]
            let [query, key, value] = ops::split3(&fused)?;
            ops::write_kv(&key, &value, index, batch, kv)?;
            let attended = ops::attend_cached(&query, index, self.heads, batch, kv)?;
            x = ops::add(x, &ops::linear(&attended, &layer.output, &batch.segments)?)?;

            let normed = ops::norm(&x, &layer.feed_forward_norm)?;
            let up = ops::activate(ops::linear(&normed, &layer.up, &batch.segments)?, self.activation)?;
            x = ops::add(x, &ops::linear(&up, &layer.down, &batch.segments)?)?;
        }
        ops::decoder_outputs(&x, &self.norm, &self.head, batch)
    }
}
