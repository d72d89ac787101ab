//! GPT-2 (ruGPT-3's architecture): learned positions, layer norms, Conv1D weights.

use std::sync::Arc;

use candle_core::Result;
use repertoire_kernels::cpu::Activation;

use crate::adapter::{EmbeddingSite, Projection, Site, SiteMap};

use super::layers::{Attention, Embedding, Heads, Linear, Norm};
use super::load::{Builder, LoadError, ModelConfig, Naming};
use super::ops::Ops;

/// A decoder with learned positions.
pub struct Gpt2 {
    sites: Arc<SiteMap>,
    embedding: Embedding,
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
        let words = builder.weight("transformer.wte.weight", &[config.vocab, config.hidden])?;
        let positions = builder.weight("transformer.wpe.weight", &[config.context, config.hidden])?;
        let layers =
            (0..config.layers).map(|i| Layer::load(&mut builder, config, i)).collect::<std::result::Result<_, _>>()?;
        let norm = builder.layer_norm("transformer.ln_f", config.hidden)?;
        let head = builder.decoder_head(&words)?;
        let naming = Naming {
            backbone: "transformer",
            head: "score",
            embedding: "transformer.wte",
            causal: true,
            missing_pooler: false,
        };
        let position_site = EmbeddingSite { module: "transformer.wpe".into(), weight: positions.clone() };
        Ok(Self {
            sites: builder.finish(naming, words.clone(), Some(position_site)),
            embedding: Embedding { words, positions: Some(positions), for_all: None },
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

impl Gpt2 {
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
        // [tokens, 3 · hidden]
        let [fused] = ops.normed_group(&x, &layer.attention_norm, [&layer.attention])?;
        let qkv = ops.split3(fused)?;
        let attended = ops.attend(index, qkv, Attention { heads: self.heads, norms: None, rotary: None })?;
        let x = ops.add_linear(x, &attended, &layer.output)?;

        let [up] = ops.normed_group(&x, &layer.feed_forward_norm, [&layer.up])?;
        let up = ops.activate(up, self.activation)?;
        ops.add_linear(x, &up, &layer.down)
    }

    /// What the sum after the last layer answers.
    pub fn answer<O: Ops>(&self, ops: O, x: O::Matrix) -> Result<O::Answer> {
        ops.answer_decoder(x, &self.norm, &self.head)
    }
}
