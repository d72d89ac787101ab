//! What adapters change about a site, where kernels find it.

use std::sync::Arc;

use super::gpu::{Arg, count};
use super::sources::TABLE;
use super::{Dtype, Gpu, GpuError, Slice};

/// The highest rank.
pub const MOST_RANK: usize = 256;

/// What an adapter does at a site: `rescale ⊙ (scale ⊙ (W·(rescale_in ⊙ x) + low_rank) + bias)`, with parts that may be absent.
#[derive(Clone, Default)]
pub struct SitePatch {
    pub low_rank: Option<LowRank>,
    /// `[outputs]`. All four rows are of one dtype.
    pub scale: Option<Slice>,
    /// `[outputs]`.
    pub rescale: Option<Slice>,
    /// `[inputs]`.
    pub rescale_in: Option<Slice>,
    /// `[outputs]`, in place of the base's.
    pub bias: Option<Slice>,
}

/// `scale · B(A·x)`; both matrices are of one dtype and aligned to 16 bytes.
#[derive(Clone)]
pub struct LowRank {
    /// [rank, inputs].
    pub a: Slice,
    /// [outputs, rank].
    pub b: Slice,
    pub rank: usize,
    pub scale: f32,
}

/// The patches of one site by slot, on the GPU; they may change between launches, and in what a graph launches.
pub struct Table {
    entries: Slice,
    /// What the entries point to.
    patches: Vec<SitePatch>,
    inputs: usize,
    outputs: usize,
    most_rank: usize,
}

/// A slot as kernels see it; as in `cuda/adapters.cuh`.
#[derive(Default)]
struct Entry {
    /// a, b, scale, rescale, rescale_in, bias.
    pointers: [u64; 6],
    rank: u32,
    dtype: u32,
    row_dtype: u32,
    scale: f32,
}

/// u32 numbers of an entry.
const ENTRY: usize = 16;

impl Table {
    /// A table of so many slots, all of which change nothing. Slot 0 never will.
    ///
    /// # Panics
    /// If `inputs` is not a multiple of 8, or `most_rank` is more than [`MOST_RANK`].
    pub fn new(
        gpu: &Arc<Gpu>,
        inputs: usize,
        outputs: usize,
        most_rank: usize,
        slots: usize,
    ) -> Result<Self, GpuError> {
        assert!(inputs.is_multiple_of(8), "{inputs} inputs: a multiple of 8 is needed");
        assert!(inputs < 1 << 31 && outputs < 1 << 31, "{inputs} inputs, {outputs} outputs: fewer than 2³¹ are needed");
        assert!(most_rank <= MOST_RANK, "rank {most_rank} of at most {MOST_RANK}");
        let entries = Slice::of_u32(gpu, &vec![0; slots * ENTRY])?;
        Ok(Self { entries, patches: vec![SitePatch::default(); slots], inputs, outputs, most_rank })
    }

    /// Puts a patch into a slot; see [`set_slot`].
    ///
    /// # Panics
    /// As that does.
    pub fn set(&mut self, slot: usize, patch: SitePatch) -> Result<(), GpuError> {
        let gpu = self.entries.gpu().clone();
        set_slot(&gpu, slot, [(self, patch)])
    }

    /// Allows ranks up to `most_rank`, if they were not allowed before; then launches are no longer those that were captured.
    ///
    /// # Panics
    /// If that is more than [`MOST_RANK`].
    pub fn allow_rank(&mut self, most_rank: usize) -> bool {
        assert!(most_rank <= MOST_RANK, "rank {most_rank} of at most {MOST_RANK}");
        let grows = most_rank > self.most_rank;
        self.most_rank = self.most_rank.max(most_rank);
        grows
    }

    pub fn slots(&self) -> usize {
        self.patches.len()
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The highest rank a patch may have.
    pub fn most_rank(&self) -> usize {
        self.most_rank
    }

    /// The entries, for a kernel.
    pub(super) fn arg(&self) -> Arg {
        Arg::slice(&self.entries)
    }

    fn entry(&self, patch: &SitePatch) -> Entry {
        let mut entry = Entry::default();
        if let Some(LowRank { a, b, rank, scale }) = &patch.low_rank {
            assert!(*rank <= self.most_rank, "rank {rank} of at most {}", self.most_rank);
            assert_eq!(a.len(), rank * self.inputs, "a is [rank, inputs]");
            assert_eq!(b.len(), self.outputs * rank, "b is [outputs, rank]");
            assert_eq!(a.dtype(), b.dtype(), "a and b are of one dtype");
            entry.pointers[..2].copy_from_slice(&[a.pointer_for(&self.entries), b.pointer_for(&self.entries)]);
            assert!(entry.pointers.iter().all(|pointer| pointer % 16 == 0), "a and b are aligned to 16 bytes");
            (entry.rank, entry.dtype, entry.scale) = (*rank as u32, a.dtype().number(), *scale);
        }
        let rows = [
            (&patch.scale, self.outputs),
            (&patch.rescale, self.outputs),
            (&patch.rescale_in, self.inputs),
            (&patch.bias, self.outputs),
        ];
        let mut dtype = None;
        for (i, (row, len)) in rows.into_iter().enumerate() {
            let Some(row) = row else { continue };
            assert_eq!(row.len(), len, "a row is as long as its side of the site");
            assert_eq!(*dtype.get_or_insert(row.dtype()), row.dtype(), "rows are of one dtype");
            entry.pointers[2 + i] = row.pointer_for(&self.entries);
            entry.row_dtype = row.dtype().number();
        }
        entry
    }
}

/// Puts patches into a slot of several tables, in the order of launches; what was there before may be dropped. However many they
/// are, it is a copy and a launch.
///
/// # Panics
/// If a shape or a dtype does not fit, or the slot is 0 or not there.
pub fn set_slot<'a>(
    gpu: &Arc<Gpu>,
    slot: usize,
    patches: impl IntoIterator<Item = (&'a mut Table, SitePatch)>,
) -> Result<(), GpuError> {
    let patches: Vec<_> = patches.into_iter().collect();
    if patches.is_empty() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    for (table, patch) in &patches {
        assert!(slot != 0 && slot < table.patches.len(), "slot {slot} of {}", table.patches.len());
        bytes.extend(table.entry(patch).bytes());
        let to = table.entries.part(slot * ENTRY..(slot + 1) * ENTRY);
        bytes.extend([to.pointer_for(&table.entries), 0].map(u64::to_le_bytes).concat());
    }
    let entries = Slice::new(gpu, Dtype::U32, bytes.len() / 4)?;
    entries.write(&bytes)?;
    let args = [Arg::slice(&entries), Arg::count(patches.len())];
    let blocks = count(patches.len().div_ceil(32));
    // SAFETY: entries and where they go are there; the kernel leaves out threads past the last.
    unsafe { gpu.launch(&TABLE, "set_entries", (blocks, 1, 1), 128, 0, &args) }?;
    for (table, patch) in patches {
        table.patches[slot] = patch;
    }
    Ok(())
}

impl Entry {
    fn bytes(&self) -> Vec<u8> {
        let [a, b, scale, rescale, rescale_in, bias] = self.pointers.map(u64::to_le_bytes);
        let has_rows = [scale, rescale, bias].iter().any(|pointer| *pointer != [0; 8]);
        let dtypes = (self.dtype | u32::from(has_rows) << 16).to_le_bytes();
        let near = [b, [self.rank.to_le_bytes(), dtypes].concat().try_into().expect("two words")];
        let numbers = [self.row_dtype, self.scale.to_bits()].map(u32::to_le_bytes);
        [near.concat(), [a, scale, rescale, rescale_in, bias].concat(), numbers.concat()].concat()
    }
}
