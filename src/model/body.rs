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

    /// Runs a step.
    pub fn forward<O: Ops>(&self, ops: O) -> Result<O::Answer> {
        match self {
            Self::Bert(bert) => bert.forward(ops),
            Self::Gpt2(gpt2) => gpt2.forward(ops),
            Self::Llama(llama) => llama.forward(ops),
        }
    }
}
