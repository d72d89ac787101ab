//! An adapter in the making: what its files have said so far.

use super::{
    Adapter, Digest, EmbeddingPatch, GenerationDefaults, Head, KeyValuePrefix, Kind, LinearPatch, Metadata, OnDevice,
    SiteId, SiteMap, TaskKind, VirtualTokens,
};

/// The parts of an [`Adapter`], filled in one by one against one base.
#[derive(Debug)]
pub(super) struct Draft<'m> {
    pub(super) map: &'m SiteMap,
    patches: Vec<Option<LinearPatch>>,
    pub(super) embedding: Option<EmbeddingPatch>,
    pub(super) positions: Option<EmbeddingPatch>,
    pub(super) virtual_tokens: Option<VirtualTokens>,
    pub(super) prefix: Option<KeyValuePrefix>,
    pub(super) head: Option<Head>,
    /// In place of the metadata's.
    pub(super) prompt_format: Option<String>,
    /// In place of the metadata's.
    pub(super) generation: Option<GenerationDefaults>,
}

impl<'m> Draft<'m> {
    /// Changes nothing yet.
    pub(super) fn new(map: &'m SiteMap) -> Self {
        Self {
            map,
            patches: vec![None; map.linears.len()],
            embedding: None,
            positions: None,
            virtual_tokens: None,
            prefix: None,
            head: None,
            prompt_format: None,
            generation: None,
        }
    }

    /// What is known so far of the change at a site.
    pub(super) fn patch(&self, site: SiteId) -> Option<&LinearPatch> {
        self.patches[site.0].as_ref()
    }

    /// The change at a site, begun if there is none.
    pub(super) fn patch_mut(&mut self, site: SiteId) -> &mut LinearPatch {
        self.patches[site.0].get_or_insert_default()
    }

    /// The adapter: it classifies if it has a head.
    pub(super) fn finish(self, digest: Digest, kind: Kind, metadata: &Metadata) -> Adapter {
        let rank = self.rank();
        let touched = self.patches.iter().any(Option::is_some);
        Adapter {
            digest,
            base: self.map.base.clone(),
            kind,
            task: if self.head.is_some() { TaskKind::Classify } else { TaskKind::Generate },
            rank,
            patches: if touched { self.patches } else { Vec::new() },
            embedding: self.embedding,
            positions: self.positions,
            virtual_tokens: self.virtual_tokens,
            prefix: self.prefix,
            head: self.head,
            prompt_format: self.prompt_format.or_else(|| metadata.prompt_format.clone()),
            generation: self.generation.or_else(|| metadata.generation.clone()).unwrap_or_default(),
            description: metadata.description.clone(),
            on_device: OnDevice::default(),
        }
    }

    fn rank(&self) -> usize {
        let linear = self.patches.iter().flatten().filter_map(|patch| patch.low_rank.as_ref());
        let embeddings = self.embedding.iter().chain(&self.positions).filter_map(|patch| patch.low_rank.as_ref());
        linear.map(|p| p.a.dims()[0]).chain(embeddings.map(|p| p.a.dims()[1])).max().unwrap_or(0)
    }
}
