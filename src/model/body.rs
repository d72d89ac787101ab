//! The forward code of each architecture, behind one name.

use std::sync::Arc;

use candle_core::Result;

use crate::adapter::SiteMap;

use super::KvShape;
use super::bert::Bert;
use super::gpt2::Gpt2;
use super::llama::Llama;
use super::load::{Builder, LoadError, ModelConfig};
use super::ops::Ops;

/// A base's weights and what is done with them.
pub enum Body {
    Bert(Bert),
    Gpt2(Gpt2),
    Llama(Llama),
}

impl Body {
    /// Reads the weights.
    pub fn load(builder: Builder<'_>, config: &ModelConfig) -> std::result::Result<Self, LoadError> {
        Ok(match config.family.as_str() {
            "gpt2" => Self::Gpt2(Gpt2::load(builder, config)?),
            "bert" => Self::Bert(Bert::load(builder, config)?),
            _ => Self::Llama(Llama::load(builder, config)?),
        })
    }

    /// Shape and names.
    pub fn sites(&self) -> &Arc<SiteMap> {
        match self {
            Self::Bert(bert) => bert.sites(),
            Self::Gpt2(gpt2) => gpt2.sites(),
            Self::Llama(llama) => llama.sites(),
        }
    }

    /// How keys and values are stored in numbers of `bytes` bytes; `None` for encoders.
    pub fn kv_shape(&self, bytes: usize) -> Option<KvShape> {
        let SiteMap { causal, layers, kv_heads, head_dim, .. } = **self.sites();
        causal.then_some(KvShape { layers, kv_heads, head_dim, bytes })
    }

    /// Runs a step: from the embedding through all layers to the answer.
    pub fn forward<O: Ops>(&self, mut ops: O) -> Result<O::Answer> {
        let mut x = self.embed(&mut ops)?;
        for index in 0..self.sites().layers {
            x = self.layer(&mut ops, index, x)?;
        }
        self.answer(ops, x)
    }

    /// What goes into the first layer: [tokens, hidden].
    pub fn embed<O: Ops>(&self, ops: &mut O) -> Result<O::Matrix> {
        match self {
            Self::Bert(bert) => bert.embed(ops),
            Self::Gpt2(gpt2) => gpt2.embed(ops),
            Self::Llama(llama) => llama.embed(ops),
        }
    }

    /// What comes of a layer.
    pub fn layer<O: Ops>(&self, ops: &mut O, index: usize, x: O::Matrix) -> Result<O::Matrix> {
        match self {
            Self::Bert(bert) => bert.layer(ops, index, x),
            Self::Gpt2(gpt2) => gpt2.layer(ops, index, x),
            Self::Llama(llama) => llama.layer(ops, index, x),
        }
    }

    /// What the last layer's result answers.
    pub fn answer<O: Ops>(&self, ops: O, x: O::Matrix) -> Result<O::Answer> {
        match self {
            Self::Bert(bert) => bert.answer(ops, x),
            Self::Gpt2(gpt2) => gpt2.answer(ops, x),
            Self::Llama(llama) => llama.answer(ops, x),
        }
    }
}
