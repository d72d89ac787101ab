//! The places of a base that adapters change, under the names that PEFT gives them.

use std::fmt;
use std::sync::Arc;

use candle_core::Tensor;

use crate::device::Weight;

/// What a linear layer does in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    Query,
    Key,
    Value,
    /// GPT-2's fused `c_attn`: query, key and value one after the other.
    QueryKeyValue,
    AttentionOutput,
    Gate,
    Up,
    Down,
    Pooler,
    LmHead,
}

/// One linear layer of a base; `layer` is absent for the pooler and the output head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    pub layer: Option<usize>,
    pub projection: Projection,
}

/// The index of a site in its base's [`SiteMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub usize);

/// A linear layer as adapters see it.
#[derive(Clone, Debug)]
pub struct SiteEntry {
    pub site: Site,
    /// The module's name inside the task model, e.g. `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Whether PEFT sees a Conv1D, whose weight is [in, out] (`fan_in_fan_out`).
    pub conv1d: bool,
    /// [out, in], whatever the file had; where the base runs, so look at some rows at a time.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl SiteEntry {
    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }
}

/// The token embedding as adapters see it.
#[derive(Clone, Debug)]
pub struct EmbeddingSite {
    /// E.g. `model.embed_tokens`.
    pub module: String,
    /// [vocab, hidden]; as for a site.
    pub weight: Weight,
}

/// Counts the tokens of a text as the base's tokenizer makes them by default, special ones included; `adapter` itself knows no tokenizer.
#[derive(Clone)]
pub struct TokenCounter(pub Arc<CountTokens>);

/// The number of a text's tokens; `None` if the tokenizer fails.
pub type CountTokens = dyn Fn(&str) -> Option<usize> + Send + Sync;

impl fmt::Debug for TokenCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenCounter")
    }
}

/// What a base offers to adapters: its linear sites, its embedding and its shape.
#[derive(Clone, Debug)]
pub struct SiteMap {
    /// The base's name in this server.
    pub base: String,
    /// Further names that `base_model_name_or_path` may hold: source and aliases.
    pub aliases: Vec<String>,
    /// `model_type` of config.json: `llama`, `gpt2`, `bert`, ...
    pub family: String,
    /// Module name of the backbone inside the task model: `model`, `transformer`, `bert`. Adapters without a task type name modules without it.
    pub backbone: String,
    pub linears: Vec<SiteEntry>,
    pub embedding: EmbeddingSite,
    /// Learned positions (`transformer.wpe`), where the model can apply a patch to them; else they are among `frozen`.
    pub positions: Option<EmbeddingSite>,
    /// Other modules that exist but cannot be changed exactly (norms, position embeddings ...): (name, its parameters as (suffix, tensor)). For `bias: all`, which repeats their biases.
    pub frozen: Vec<(String, Vec<(String, Tensor)>)>,
    /// Whether the output head shares the embedding's matrix.
    pub tied: bool,
    /// Whether tokens attend only backwards (a decoder), or both ways (an encoder).
    pub causal: bool,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// The longest sequence, virtual tokens included.
    pub context: usize,
    /// Fills batches up in transformers; a decoder's head reads the last token that is not this one.
    pub pad: Option<u32>,
    /// Module name of the classification head: `score` or `classifier`.
    pub head: String,
    /// The family has a pooler, but the base's files bring no weights for it: the entry's are zeros, and a classifier must bring its own.
    pub missing_pooler: bool,
    /// For ruprompts templates with `<P>text</P>` that were saved uncompiled; without it they are refused.
    pub count_tokens: Option<TokenCounter>,
}

impl SiteMap {
    /// Width of one layer's keys for one token.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The index of a site, if this base has it.
    pub fn find(&self, site: Site) -> Option<SiteId> {
        self.linears.iter().position(|entry| entry.site == site).map(SiteId)
    }

    /// Whether `name` (of a config or a request) means this base.
    pub fn answers_to(&self, name: &str) -> bool {
        self.base == name || self.aliases.iter().any(|alias| alias == name)
    }
}
