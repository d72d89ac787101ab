//! BERT (ruBERT's, MiniLM's and E5's architecture): an encoder that attends both ways.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use repertoire_kernels::cpu::Activation;

use crate::adapter::{EmbeddingSite, Projection, Site, SiteMap};

use super::layers::{Embedding, Heads, Linear, Norm};
use super::load::{Builder, LoadError, ModelConfig, Naming};
use super::ops::Ops;

/// An encoder with learned positions and norms after each sum. arXiv 1810.04805.
pub struct Bert {
    sites: Arc<SiteMap>,
    /// Words, positions, and token type 0.
    embedding: Embedding,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    pooler: Linear,
    heads: Heads,
    activation: Activation,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    feed_forward_norm: Norm,
}

impl Bert {
    /// Reads the weights. A missing pooler is noted: adapters with a head must bring it.
    pub fn load(mut builder: Builder<'_>, config: &ModelConfig) -> std::result::Result<Self, LoadError> {
        let hidden = config.hidden;
        let at = "bert.embeddings";
        let words = builder.weight(&format!("{at}.word_embeddings.weight"), &[config.vocab, hidden])?;
        let positions = builder.weight(&format!("{at}.position_embeddings.weight"), &[config.context, hidden])?;
        let types = builder.get(&format!("{at}.token_type_embeddings.weight"), &[config.token_types, hidden])?;
        builder.freeze(&format!("{at}.token_type_embeddings"), vec![("weight".into(), types.clone())]);
        let for_all = Some(builder.place(types.get(0)?.to_dtype(DType::F32)?)?);
        let embedding_norm = builder.layer_norm(&format!("{at}.LayerNorm"), hidden)?;
        let layers =
            (0..config.layers).map(|i| Layer::load(&mut builder, config, i)).collect::<std::result::Result<_, _>>()?;
        let weight = builder.find("bert.pooler.dense.weight", &[hidden, hidden])?;
        let missing_pooler = weight.is_none();
        let weight = match weight {
            Some(weight) => weight,
            None => Tensor::zeros((hidden, hidden), DType::F32, &Device::Cpu)?,
        };
        let site = Site { layer: None, projection: Projection::Pooler };
        let weight = builder.place(weight)?;
        let pooler = builder.site(site, "bert.pooler.dense", weight, false, hidden)?;
        let naming = Naming {
            backbone: "bert",
            head: "classifier",
            embedding: "bert.embeddings.word_embeddings",
            causal: false,
            missing_pooler,
        };
        let position_site = EmbeddingSite { module: format!("{at}.position_embeddings"), weight: positions.clone() };
        Ok(Self {
            sites: builder.finish(naming, words.clone(), Some(position_site)),
            embedding: Embedding { words, positions: Some(positions), for_all },
            embedding_norm,
            layers,
            pooler,
            heads: Heads { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim },
            activation: config.activation,
        })
    }
}

impl Layer {
    fn load(builder: &mut Builder<'_>, config: &ModelConfig, index: usize) -> std::result::Result<Self, LoadError> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let at = format!("bert.encoder.layer.{index}");
        let site = |projection| Site { layer: Some(index), projection };
        let module = |name: &str| format!("{at}.{name}");
        let [query, key, value] = builder.linear_group(
            hidden,
            [
                (site(Projection::Query), &module("attention.self.query"), hidden),
                (site(Projection::Key), &module("attention.self.key"), hidden),
                (site(Projection::Value), &module("attention.self.value"), hidden),
            ],
            false,
        )?;
        let mut linear = |projection, name: &str, inputs, outputs| {
            builder.linear(site(projection), &module(name), inputs, outputs, false)
        };
        Ok(Self {
            query,
            key,
            value,
            output: linear(Projection::AttentionOutput, "attention.output.dense", hidden, hidden)?,
            up: linear(Projection::Up, "intermediate.dense", hidden, intermediate)?,
            down: linear(Projection::Down, "output.dense", intermediate, hidden)?,
            attention_norm: builder.layer_norm(&format!("{at}.attention.output.LayerNorm"), hidden)?,
            feed_forward_norm: builder.layer_norm(&format!("{at}.output.LayerNorm"), hidden)?,
        })
    }
}

impl Bert {
    /// Shape and names.
    pub fn sites(&self) -> &Arc<SiteMap> {
        &self.sites
    }

    /// What goes into the first layer: [tokens, hidden].
    pub fn embed<O: Ops>(&self, ops: &mut O) -> Result<O::Matrix> {
        let x = ops.embed(&self.embedding)?;
        ops.norm_sum(x, &self.embedding_norm)
    }

    /// What comes of a layer.
    pub fn layer<O: Ops>(&self, ops: &mut O, index: usize, x: O::Matrix) -> Result<O::Matrix> {
        let layer = &self.layers[index];
        let qkv = ops.linear_group(&x, [&layer.query, &layer.key, &layer.value])?;
        let attended = ops.attend_both_ways(index, qkv, self.heads)?;
        let x = ops.add_linear_norm(x, &attended, &layer.output, &layer.attention_norm)?;

        let up = ops.linear(&x, &layer.up)?;
        let up = ops.activate(up, self.activation)?;
        ops.add_linear_norm(x, &up, &layer.down, &layer.feed_forward_norm)
    }

    /// What the last layer's result answers.
    pub fn answer<O: Ops>(&self, ops: O, x: O::Matrix) -> Result<O::Answer> {
        ops.answer_encoder(x, &self.pooler)
    }
}
