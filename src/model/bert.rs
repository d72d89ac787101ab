//! BERT (ruBERT's, MiniLM's and E5's architecture): an encoder that attends both ways.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use repertoire_kernels::cpu::Activation;

use crate::adapter::{EmbeddingSite, Projection, Site, SiteMap};

use super::layers::{Heads, Linear, Norm};
use super::load::{Builder, LoadError, ModelConfig, Naming};
use super::{BaseModel, Batch, KvShape, KvStore, Output, Outputs, ops};

/// An encoder with learned positions and norms after each sum. arXiv 1810.04805.
pub struct Bert {
    sites: Arc<SiteMap>,
    embedding: Tensor,
    /// [context, hidden].
    positions: Tensor,
    /// The embedding of token type 0, `[hidden]`.
    token_type: Tensor,
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
        let embedding = builder.get(&format!("{at}.word_embeddings.weight"), &[config.vocab, hidden])?;
        let positions = builder.get(&format!("{at}.position_embeddings.weight"), &[config.context, hidden])?;
        let types = builder.get(&format!("{at}.token_type_embeddings.weight"), &[config.token_types, hidden])?;
        builder.freeze(&format!("{at}.token_type_embeddings"), vec![("weight".into(), types.clone())]);
        let embedding_norm = builder.layer_norm(&format!("{at}.LayerNorm"), hidden)?;
        let layers =
            (0..config.layers).map(|i| Layer::load(&mut builder, config, i)).collect::<std::result::Result<_, _>>()?;
        let weight = builder.find("bert.pooler.dense.weight", &[hidden, hidden])?;
        let missing_pooler = weight.is_none();
        let weight = match weight {
            Some(weight) => weight,
            None => Tensor::zeros((hidden, hidden), DType::F32, embedding.device())?,
        };
        let site = Site { layer: None, projection: Projection::Pooler };
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
            sites: builder.finish(naming, embedding.clone(), Some(position_site)),
            embedding,
            positions,
            token_type: types.get(0)?.to_dtype(DType::F32)?,
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
        let mut linear = |projection, module: &str, inputs, outputs| {
            let site = Site { layer: Some(index), projection };
            builder.linear(site, &format!("{at}.{module}"), inputs, outputs, false)
        };
        Ok(Self {
            query: linear(Projection::Query, "attention.self.query", hidden, hidden)?,
            key: linear(Projection::Key, "attention.self.key", hidden, hidden)?,
            value: linear(Projection::Value, "attention.self.value", hidden, hidden)?,
            output: linear(Projection::AttentionOutput, "attention.output.dense", hidden, hidden)?,
            up: linear(Projection::Up, "intermediate.dense", hidden, intermediate)?,
            down: linear(Projection::Down, "output.dense", intermediate, hidden)?,
            attention_norm: builder.layer_norm(&format!("{at}.attention.output.LayerNorm"), hidden)?,
            feed_forward_norm: builder.layer_norm(&format!("{at}.output.LayerNorm"), hidden)?,
        })
    }
}

impl BaseModel for Bert {
    fn sites(&self) -> &Arc<SiteMap> {
        &self.sites
    }

    fn kv_shape(&self) -> Option<KvShape> {
        None
    }

    fn forward(&self, batch: &Batch, _: &mut KvStore) -> Result<Outputs> {
        let words = ops::embed(&self.embedding, batch)?; // [tokens, hidden]
        let x = ops::add(words, &ops::embed_positions(&self.positions, batch)?)?;
        let x = ops::add_row(x, &self.token_type)?;
        let mut x = ops::norm(&x, &self.embedding_norm)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let [query, key, value] = ops::linear_group(&x, [&layer.query, &layer.key, &layer.value], &batch.segments)?;
            let attended = ops::attend_both_ways(&query, &key, &value, index, self.heads, batch)?;
            let attended = ops::linear(&attended, &layer.output, &batch.segments)?;
            x = ops::norm(&ops::add(attended, &x)?, &layer.attention_norm)?;

            let up = ops::activate(ops::linear(&x, &layer.up, &batch.segments)?, self.activation)?;
            let down = ops::linear(&up, &layer.down, &batch.segments)?;
            x = ops::norm(&ops::add(down, &x)?, &layer.feed_forward_norm)?;
        }
        // The pooler reads each row's first token, a virtual one where there are any.
        let firsts: Vec<usize> = batch.rows_that_want(Output::Scores).map(|row| row.tokens.start).collect();
        if firsts.is_empty() {
            return Ok(Outputs::default());
        }
        let pooled = ops::linear(&ops::lookup(&x, &firsts)?, &self.pooler, &batch.output_segments(Output::Scores))?;
        let pooled = ops::activate(pooled, Activation::Tanh)?; // [rows that want scores, hidden]
        Ok(Outputs { logits: None, scores: ops::head_scores(&pooled, batch)? })
    }
}
