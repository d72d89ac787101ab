//! An adapter in memory, ready to be applied.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{
    Digest, EmbeddingPatch, GenerationDefaults, Head, KeyValuePrefix, LinearPatch, SiteId, TaskKind, VirtualTokens,
};

/// What method an adapter was trained with. For people and lists: applying never looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Lora,
    Dora,
    Ia3,
    PromptTuning,
    PTuning,
    PrefixTuning,
    Ruprompts,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lora => "lora",
            Self::Dora => "dora",
            Self::Ia3 => "ia3",
            Self::PromptTuning => "prompt_tuning",
            Self::PTuning => "p_tuning",
            Self::PrefixTuning => "prefix_tuning",
            Self::Ruprompts => "ruprompts",
        })
    }
}

/// Whether an adapter is on its base's device beside the host's memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct OnDevice(Arc<AtomicBool>);

impl OnDevice {
    /// Whether it is there now.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Notes that it came, or went.
    pub fn set(&self, there: bool) {
        self.0.store(there, Ordering::Release);
    }
}

/// One immutable version of an adapter in the host's memory. Clones share its tensors.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub digest: Digest,
    /// Name of the base it belongs to.
    pub base: String,
    pub kind: Kind,
    pub task: TaskKind,
    /// The largest rank of its low-rank patches; 0 where it has none.
    pub rank: usize,
    /// Indexed by [`SiteId`]; empty when no linear site is touched.
    pub patches: Vec<Option<LinearPatch>>,
    pub embedding: Option<EmbeddingPatch>,
    /// The change to learned position embeddings; only where the base's [`SiteMap::positions`](super::SiteMap) is present.
    pub positions: Option<EmbeddingPatch>,
    pub virtual_tokens: Option<VirtualTokens>,
    pub prefix: Option<KeyValuePrefix>,
    pub head: Option<Head>,
    /// Template with `{fields}`, and `<|P|>` where a virtual token stands (ruprompts).
    pub prompt_format: Option<String>,
    pub generation: GenerationDefaults,
    pub description: Option<String>,
    pub on_device: OnDevice,
}

impl Adapter {
    /// What it does at a linear site.
    pub fn patch(&self, site: SiteId) -> Option<&LinearPatch> {
        self.patches.get(site.0)?.as_ref()
    }

    /// Virtual tokens that stand before the prompt.
    pub fn leading_virtual_tokens(&self) -> usize {
        self.virtual_tokens.as_ref().filter(|v| v.leading).map_or(0, VirtualTokens::count)
    }

    /// Positions taken before the first token by a key-value prefix.
    pub fn prefix_len(&self) -> usize {
        self.prefix.as_ref().map_or(0, |prefix| prefix.count)
    }

    /// Every tensor held.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let patches = self.patches.iter().flatten().flat_map(LinearPatch::tensors);
        let embedding = self.embedding.iter().chain(&self.positions).flat_map(EmbeddingPatch::tensors);
        let virtual_tokens = self.virtual_tokens.iter().map(|v| &v.embeddings);
        let prefix = self.prefix.iter().flat_map(|p| p.keys.iter().chain(&p.values));
        let head = self.head.iter().flat_map(|h| std::iter::once(&h.weight).chain(&h.bias));
        patches.chain(embedding).chain(virtual_tokens).chain(prefix).chain(head)
    }

    /// Numbers held, as PEFT counts trainable parameters.
    pub fn parameters(&self) -> usize {
        self.tensors().map(Tensor::elem_count).sum()
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.tensors().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
    }
}
