//! Which blocks of the key-value store are whose.

use crate::model::BlockId;

/// Free blocks, reference counts, and how many blocks are promised to running units.
#[derive(Debug)]
pub struct BlockPool {
    free: Vec<BlockId>,
    references: Vec<u32>,
    promised: usize,
}

impl BlockPool {
    /// A pool of `total` free blocks.
    pub fn new(total: usize) -> Self {
        let free = (0..total as u32).rev().map(BlockId).collect();
        Self { free, references: vec![0; total], promised: 0 }
    }

    /// All blocks.
    pub fn total(&self) -> usize {
        self.references.len()
    }

    /// Blocks that nobody uses.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Promises `count` blocks, if so many are not promised yet. A unit never takes more than it was promised, so [`Self::take`] cannot fail.
    pub fn promise(&mut self, count: usize) -> bool {
        let fits = self.promised + count <= self.total();
        if fits {
            self.promised += count;
        }
        fits
    }

    /// Takes a promise back.
    pub fn forget(&mut self, count: usize) {
        self.promised -= count;
    }

    /// A free block, with one reference.
    ///
    /// # Panics
    /// If a unit takes more than it was promised: a bug in the scheduler.
    pub fn take(&mut self) -> BlockId {
        let block = self.free.pop().expect("promised blocks are free");
        self.references[block.0 as usize] = 1;
        block
    }

    /// One more sequence uses a block.
    pub fn share(&mut self, block: BlockId) {
        self.references[block.0 as usize] += 1;
    }

    /// Whether several sequences use a block.
    pub fn is_shared(&self, block: BlockId) -> bool {
        self.references[block.0 as usize] > 1
    }

    /// One sequence less uses a block; free after the last.
    pub fn release(&mut self, block: BlockId) {
        let references = &mut self.references[block.0 as usize];
        *references -= 1;
        if *references == 0 {
            self.free.push(block);
        }
    }
}
