//! Whose lines of a matrix are whose.

use std::ops::Range;
use std::sync::Arc;

use repertoire_kernels::cuda::{LinesOf, MOST_SLOT_LINES, Slice, tiles};

use crate::adapter::Adapter;
use crate::model::Segment;

use super::super::residents::Residents;
use super::staged;

/// The adapters' slots of a matrix's lines.
pub struct Lines {
    pub count: usize,
    /// u32 `[count]`.
    pub slots: Slice,
    /// For more lines than kernels look up one by one.
    pub tiles: Option<Slice>,
    /// Lines whose adapter has weights of its own in place of the base's.
    pub replaced: Vec<(Range<usize>, Arc<Adapter>)>,
    /// Whether some line has an adapter that is more than a prefix or tokens.
    pub adapted: bool,
}

impl Lines {
    /// As kernels take it.
    pub fn lines_of(&self) -> LinesOf<'_> {
        match &self.tiles {
            Some(tiles) => LinesOf::Tiles(tiles),
            None => LinesOf::Slots(&self.slots),
        }
    }
}

/// [`Lines`] on their way to the GPU.
pub struct Staged {
    slots: Range<usize>,
    tiles: Option<Range<usize>>,
    replaced: Vec<(Range<usize>, Arc<Adapter>)>,
    adapted: bool,
}

impl Staged {
    /// Gathers the slots of a matrix's segments.
    pub fn new(staged: &mut staged::Staged, residents: &Residents, segments: &[Segment]) -> Self {
        let mut slots = Vec::new();
        let mut replaced = Vec::new();
        for segment in segments {
            let resident = segment.adapter.as_deref().and_then(|adapter| residents.get(adapter));
            slots.resize(segment.lines.end, resident.map_or(0, |resident| resident.slot));
            if let (Some(adapter), true) = (&segment.adapter, resident.is_some_and(|r| !r.weights.is_empty())) {
                replaced.push((segment.lines.clone(), adapter.clone()));
            }
        }
        let patched = |segment: &Segment| segment.adapter.as_ref().is_some_and(|adapter| !adapter.patches.is_empty());
        let adapted = segments.iter().any(patched);
        let tiles = (slots.len() > MOST_SLOT_LINES).then(|| staged.add(&tiles(&slots)));
        Self { slots: staged.add(&slots), tiles, replaced, adapted }
    }

    /// What `all` numbers gathered have become on the GPU.
    pub fn on_gpu(self, all: &Slice) -> Lines {
        let Self { slots, tiles, replaced, adapted } = self;
        let count = slots.len();
        Lines { count, slots: all.part(slots), tiles: tiles.map(|tiles| all.part(tiles)), replaced, adapted }
    }
}
