//! The paged store of keys and values.

use std::sync::Arc;

use super::gpu::{Arg, count, instance};
use super::sources::KV;
use super::{Dtype, Gpu, GpuError, Heads, Slice};

/// Tokens per block.
pub const BLOCK_TOKENS: usize = 16;

/// Keys and values of all sequences in all layers.
pub struct KvStore {
    /// [layers, blocks, kv_heads, BLOCK_TOKENS, head_dim].
    pub keys: Slice,
    /// [layers, blocks, kv_heads, BLOCK_TOKENS, head_dim].
    pub values: Slice,
    pub layers: usize,
    pub blocks: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// One layer of a [`KvStore`]; shares its memory.
#[derive(Clone)]
pub struct KvLayer {
    /// [blocks, kv_heads, BLOCK_TOKENS, head_dim].
    pub keys: Slice,
    /// [blocks, kv_heads, BLOCK_TOKENS, head_dim].
    pub values: Slice,
    pub blocks: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl KvStore {
    /// A store of `blocks` blocks, with whatever was in its memory before.
    pub fn new(
        gpu: &Arc<Gpu>,
        dtype: Dtype,
        layers: usize,
        blocks: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self, GpuError> {
        let len = [layers, blocks, kv_heads, BLOCK_TOKENS, head_dim].into_iter().try_fold(1usize, usize::checked_mul);
        let len = len.ok_or(GpuError::OutOfMemory { bytes: usize::MAX })?;
        let (keys, values) = (Slice::new(gpu, dtype, len)?, Slice::new(gpu, dtype, len)?);
        Ok(Self { keys, values, layers, blocks, kv_heads, head_dim })
    }

    /// One layer.
    pub fn layer(&self, layer: usize) -> KvLayer {
        let Self { blocks, kv_heads, head_dim, .. } = *self;
        let len = self.blocks * self.block();
        let range = layer * len..(layer + 1) * len;
        KvLayer { keys: self.keys.part(range.clone()), values: self.values.part(range), blocks, kv_heads, head_dim }
    }

    fn heads(&self) -> Heads {
        Heads { heads: self.kv_heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    /// Numbers of a block.
    fn block(&self) -> usize {
        self.kv_heads * BLOCK_TOKENS * self.head_dim
    }
}

impl KvLayer {
    /// What kernels ask of a store: `head_dim` is a multiple of 8, and the other lengths are as they say.
    pub(super) fn check(&self, dtype: Dtype, heads: Heads) {
        let len = self.blocks * self.kv_heads * BLOCK_TOKENS * self.head_dim;
        assert!(self.keys.dtype() == dtype && self.values.dtype() == dtype, "the store is of the activations' dtype");
        assert!(self.keys.len() == len && self.values.len() == len, "a store of {} blocks", self.blocks);
        assert!((heads.kv_heads, heads.head_dim) == (self.kv_heads, self.head_dim), "heads as the store has them");
        assert!((1..1 << 28).contains(&self.blocks), "{} blocks: from 1 to 2²⁸ - 1", self.blocks);
        assert!(self.head_dim.is_multiple_of(8), "head_dim {}: a multiple of 8 is needed", self.head_dim);
        assert!(self.keys.aligned() && self.values.aligned(), "a store begins at a multiple of 16 bytes");
    }
}

/// Copies whole blocks in all layers: (from, to). They are copied at once: no block is both read and written, or written twice.
pub fn copy_blocks(gpu: &Arc<Gpu>, store: &KvStore, copies: &[(u32, u32)]) -> Result<(), GpuError> {
    if copies.is_empty() || store.layers == 0 {
        return Ok(());
    }
    store.layer(0).check(store.keys.dtype(), store.heads());
    let len = store.layers * store.blocks * store.block();
    assert!(store.keys.len() == len && store.values.len() == len, "a store of {} layers", store.layers);
    assert!(copies.iter().all(|&(from, to)| from.max(to) < count(store.blocks)), "blocks of the store");
    let list = Slice::of_u32(gpu, &copies.iter().flat_map(|&(from, to)| [from, to]).collect::<Vec<_>>())?;
    let args = [
        Arg::slice(&store.keys),
        Arg::slice(&store.values),
        Arg::slice(&list),
        Arg::count(store.blocks),
        Arg::count(store.block() * store.keys.dtype().bytes()),
    ];
    let grid = (count(copies.len()), count(store.layers), 2);
    // SAFETY: the store's lengths and the blocks were checked; a block is a multiple of 16 bytes as head_dim is one of 8.
    unsafe { gpu.launch(&KV, "copy_blocks", grid, 256, 0, &args) }
}

/// Writes a key-value prefix [count, kv_heads · head_dim] (f32, f16 or bf16), from position `from` on, at the start of a sequence
/// whose first blocks are `blocks`.
pub fn write_prefix(
    gpu: &Arc<Gpu>,
    keys: &Slice,
    values: &Slice,
    layer: &KvLayer,
    blocks: &[u32],
    from: usize,
) -> Result<(), GpuError> {
    let KvLayer { kv_heads, head_dim, .. } = *layer;
    let (dtype, width) = (layer.keys.dtype(), kv_heads * head_dim);
    layer.check(dtype, Heads { heads: kv_heads, kv_heads, head_dim });
    let tokens = keys.len() / width;
    assert!(
        keys.len().is_multiple_of(width) && values.len() == keys.len() && values.dtype() == keys.dtype(),
        "a prefix"
    );
    assert!(blocks.len() * BLOCK_TOKENS >= tokens, "{} blocks for {tokens} tokens", blocks.len());
    assert!(blocks.iter().all(|&block| block < count(layer.blocks)), "blocks of the store");
    if from >= tokens {
        return Ok(());
    }
    let name = match keys.dtype() {
        Dtype::F32 => instance!("write_f32", dtype),
        Dtype::F16 => instance!("write_f16", dtype),
        Dtype::Bf16 => instance!("write_bf16", dtype),
        Dtype::U32 => panic!("a prefix is no u32"),
    };
    let table = Slice::of_u32(gpu, blocks)?;
    let args = [
        Arg::slice(keys),
        Arg::slice(values),
        Arg::slice(&layer.keys),
        Arg::slice(&layer.values),
        Arg::slice(&table),
        Arg::count(from),
        Arg::count(kv_heads),
        Arg::count(head_dim),
    ];
    // SAFETY: lengths and blocks were checked.
    unsafe { gpu.launch(&KV, name, (count(tokens - from), 2, 1), 256, 0, &args) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::checks::*;

    #[test]
    #[ignore = "needs a GPU"]
    fn blocks_are_copied_in_all_layers() {
        let (gpu, mut rng) = (gpu(), rng(70));
        for (dtype, head_dim) in DTYPES.into_iter().flat_map(|dtype| [8, 64, 80, 256].map(|dim| (dtype, dim))) {
            let (layers, blocks, kv_heads) = (rng.random_range(1..5), 20, rng.random_range(1..4));
            let block = kv_heads * BLOCK_TOKENS * head_dim;
            let store = KvStore::new(&gpu, dtype, layers, blocks, kv_heads, head_dim).expect("memory");
            let numbers = [0, 1].map(|_| round(dtype, &uniform(&mut rng, layers * blocks * block)));
            let copies = [(3, 19), (3, 0), (7, 8)];
            for (slice, numbers) in [&store.keys, &store.values].into_iter().zip(&numbers) {
                slice.write(&to_bytes(dtype, numbers)).expect("copy");
            }
            copy_blocks(&gpu, &store, &copies).expect("launch");
            for (slice, numbers) in [&store.keys, &store.values].into_iter().zip(numbers) {
                let mut exact = numbers;
                for layer in exact.chunks_mut(blocks * block) {
                    copies
                        .iter()
                        .for_each(|&(from, to)| layer.copy_within(from * block..(from + 1) * block, to * block));
                }
                assert_eq!(slice.to_f32().expect("copy"), exact, "{dtype:?} {layers} layers, {kv_heads} · {head_dim}");
            }
        }

        fn copy_blocks(gpu: &Arc<Gpu>, store: &KvStore, copies: &[(usize, usize)]) -> Result<(), GpuError> {
            let copies: Vec<_> = copies.iter().map(|&(from, to)| (count(from), count(to))).collect();
            super::copy_blocks(gpu, store, &copies)
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn a_prefix_is_written_from_a_position_on() {
        let (gpu, mut rng) = (gpu(), rng(71));
        for (from_dtype, dtype) in DTYPES.into_iter().flat_map(|from| DTYPES.map(|dtype| (from, dtype))) {
            let (kv_heads, head_dim, blocks) = (rng.random_range(1..5), 8 * rng.random_range(1..17), 12);
            let tokens = rng.random_range(1..50);
            let from = rng.random_range(0..tokens);
            let width = kv_heads * head_dim;
            let numbers = [0, 1].map(|_| round(from_dtype, &uniform(&mut rng, tokens * width)));
            let [keys, values] = numbers.each_ref().map(|x| Slice::of(&gpu, from_dtype, x).expect("memory"));
            let store = [0, 1].map(|_| poisoned(&gpu, dtype, blocks * BLOCK_TOKENS * width));
            let table = [7, 2, 11, 0];
            let layer = KvLayer { keys: store[0].clone(), values: store[1].clone(), blocks, kv_heads, head_dim };
            write_prefix(&gpu, &keys, &values, &layer, &table, from).expect("launch");
            for (slice, numbers) in store.iter().zip(&numbers) {
                let mut exact = vec![f32::NAN; slice.len()];
                for (token, line) in numbers.chunks(width).enumerate().skip(from) {
                    for (head, line) in line.chunks(head_dim).enumerate() {
                        let block = table[token / BLOCK_TOKENS] as usize;
                        let at = ((block * kv_heads + head) * BLOCK_TOKENS + token % BLOCK_TOKENS) * head_dim;
                        exact[at..at + head_dim].copy_from_slice(&round(dtype, line));
                    }
                }
                let out = slice.to_f32().expect("copy");
                let same = out.iter().zip(&exact).all(|(a, b)| a == b || a.is_nan() && b.is_nan());
                assert!(same, "{from_dtype:?} to {dtype:?}, {from}..{tokens}, {kv_heads} · {head_dim}");
            }
        }
    }
}
