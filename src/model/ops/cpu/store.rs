//! The paged store of keys and values.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, InplaceOp2, Layout, Result, Tensor};

use crate::adapter::KeyValuePrefix;
use crate::device::{f32_slice, f32_slice_mut};
use crate::model::{BLOCK_TOKENS, BlockId, KvShape};

/// Keys and values of all sequences, in blocks of [`BLOCK_TOKENS`].
pub struct KvStore {
    /// Per layer, [blocks, kv_heads, BLOCK_TOKENS, head_dim].
    pub keys: Vec<Tensor>,
    /// Per layer, [blocks, kv_heads, BLOCK_TOKENS, head_dim].
    pub values: Vec<Tensor>,
    pub shape: KvShape,
}

impl KvStore {
    /// A store of `blocks` blocks; memory is taken as blocks are first written.
    pub fn new(shape: KvShape, blocks: usize) -> Result<Self> {
        let dims = (shape.layers, blocks, shape.kv_heads, BLOCK_TOKENS, shape.head_dim);
        // One allocation for all layers: one as large as this comes untouched from the system, where a layer's alone may
        // come from the allocator's own memory and is zeroed, which takes it at once.
        let make = || -> Result<Vec<Tensor>> {
            let all = Tensor::zeros(dims, DType::F32, &Device::Cpu)?;
            (0..shape.layers).map(|layer| all.get(layer)).collect()
        };
        Ok(Self { keys: make()?, values: make()?, shape })
    }

    /// Copies whole blocks, in all layers.
    pub fn copy_blocks(&mut self, copies: &[(BlockId, BlockId)]) -> Result<()> {
        let copy = CopyBlocks { copies, block: self.shape.kv_heads * BLOCK_TOKENS * self.shape.head_dim };
        self.keys.iter().chain(&self.values).try_for_each(|store| store.inplace_op1(&copy))
    }

    /// Writes a key-value prefix, from position `from` on, at the start of a sequence whose first blocks are `blocks`.
    pub fn write_prefix(&mut self, prefix: &KeyValuePrefix, blocks: &[BlockId], from: usize) -> Result<()> {
        let write = WritePrefix { blocks, from, shape: self.shape };
        for layer in 0..self.shape.layers {
            self.keys[layer].inplace_op2(&prefix.keys[layer].to_dtype(DType::F32)?, &write)?;
            self.values[layer].inplace_op2(&prefix.values[layer].to_dtype(DType::F32)?, &write)?;
        }
        Ok(())
    }
}

/// Where a token's head stands in a store [blocks, kv_heads, BLOCK_TOKENS, head_dim].
pub fn slot(shape: KvShape, block: BlockId, head: usize, token: usize) -> usize {
    ((block.0 as usize * shape.kv_heads + head) * BLOCK_TOKENS + token) * shape.head_dim
}

struct CopyBlocks<'a> {
    copies: &'a [(BlockId, BlockId)],
    /// Numbers per block.
    block: usize,
}

impl InplaceOp1 for CopyBlocks<'_> {
    fn name(&self) -> &'static str {
        "copy-blocks"
    }

    fn cpu_fwd(&self, store: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let store = f32_slice_mut(store, layout)?;
        for (from, to) in self.copies {
            let from = from.0 as usize * self.block;
            store.copy_within(from..from + self.block, to.0 as usize * self.block);
        }
        Ok(())
    }
}

struct WritePrefix<'a> {
    blocks: &'a [BlockId],
    from: usize,
    shape: KvShape,
}

impl InplaceOp2 for WritePrefix<'_> {
    fn name(&self) -> &'static str {
        "write-prefix"
    }

    fn cpu_fwd(&self, store: &mut CpuStorage, at: &Layout, prefix: &CpuStorage, layout: &Layout) -> Result<()> {
        let store = f32_slice_mut(store, at)?;
        let KvShape { kv_heads, head_dim, .. } = self.shape;
        let written = self.from * kv_heads;
        for (i, row) in f32_slice(prefix, layout)?.chunks_exact(head_dim).enumerate().skip(written) {
            let (token, head) = (i / kv_heads, i % kv_heads);
            let at = slot(self.shape, self.blocks[token / BLOCK_TOKENS], head, token % BLOCK_TOKENS);
            store[at..at + head_dim].copy_from_slice(row);
        }
        Ok(())
    }
}
