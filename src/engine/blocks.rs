//! Which blocks of the key-value store are whose, and what the full ones hold.

mod contents;

use std::collections::VecDeque;

use crate::model::{BLOCK_TOKENS, BlockId};

use contents::Contents;
pub use contents::{Before, Link};

/// Free blocks, reference counts, and the prefix cache: full blocks that may serve further sequences, used or not.
#[derive(Debug)]
pub struct BlockPool {
    free: Vec<BlockId>,
    references: Vec<u32>,
    contents: Contents,
    /// Blocks whose contents steps under way compute, by step, in order.
    unsettled: VecDeque<Vec<BlockId>>,
}

impl BlockPool {
    /// A pool of `total` free blocks.
    pub fn new(total: usize) -> Self {
        let free = (0..total as u32).rev().map(BlockId).collect();
        Self { free, references: vec![0; total], contents: Contents::new(total), unsettled: VecDeque::new() }
    }

    /// All blocks.
    pub fn total(&self) -> usize {
        self.references.len()
    }

    /// Blocks that no sequence uses: free ones, and those that only the cache keeps.
    pub fn available(&self) -> usize {
        self.free.len() + self.contents.unused()
    }

    /// Blocks whose contents a further sequence could use.
    pub fn cached(&self) -> usize {
        self.contents.len()
    }

    /// A block to write, with one reference: a free one, or the cached one that has been unused for longest.
    pub fn take(&mut self) -> Option<BlockId> {
        let block = self.free.pop().or_else(|| self.contents.evict())?;
        self.references[block.0 as usize] = 1;
        Some(block)
    }

    /// One more sequence uses a block.
    pub fn share(&mut self, block: BlockId) {
        let references = &mut self.references[block.0 as usize];
        *references += 1;
        if *references == 1 {
            self.contents.uses(block);
        }
    }

    /// Whether several sequences use a block.
    pub fn is_shared(&self, block: BlockId) -> bool {
        self.references[block.0 as usize] > 1
    }

    /// One sequence less uses a block. After the last it is free, or waits in the cache for another.
    pub fn release(&mut self, block: BlockId) {
        let references = &mut self.references[block.0 as usize];
        *references -= 1;
        if *references == 0 && !self.contents.retires(block) {
            self.free.push(block);
        }
    }

    /// The block that holds `tokens` after what `before` names, if there is one.
    pub fn find(&self, before: Before, tokens: &[u32; BLOCK_TOKENS]) -> Option<(Link, BlockId)> {
        self.contents.find(before, tokens)
    }

    /// A further step is planned.
    pub fn begin_step(&mut self) {
        self.unsettled.push_back(vec![]);
    }

    /// The step planned last computes nothing and will not run.
    pub fn withdraw_step(&mut self) {
        self.unsettled.pop_back();
    }

    /// Says what a block will hold once the step planned last has run; answers the name of everything up to there.
    pub fn fill(&mut self, block: BlockId, before: Before, tokens: [u32; BLOCK_TOKENS]) -> Link {
        let (link, new) = self.contents.add(block, before, tokens);
        if let Some(step) = self.unsettled.back_mut().filter(|_| new) {
            step.push(block);
        }
        link
    }

    /// The first of the steps under way has run: what it computed is there.
    pub fn settle(&mut self) {
        self.unsettled.pop_front();
    }

    /// A step failed: nobody finds what it, and those after it, should have computed. Answers the blocks they should have filled.
    pub fn forget_unsettled(&mut self) -> Vec<BlockId> {
        let lost: Vec<BlockId> = self.unsettled.drain(..).flatten().collect();
        for &block in &lost {
            if self.contents.forget(block) && self.references[block.0 as usize] == 0 {
                self.free.push(block);
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Before = Before::Nothing(None);

    fn tokens(first: u32) -> [u32; BLOCK_TOKENS] {
        std::array::from_fn(|i| first + i as u32)
    }

    #[test]
    fn what_was_used_last_stays_longest() {
        let mut pool = BlockPool::new(2);
        let blocks = [pool.take().unwrap(), pool.take().unwrap()];
        let link = pool.fill(blocks[0], ROOT, tokens(0));
        pool.fill(blocks[1], Before::Block(link), tokens(50));
        assert_eq!(pool.take(), None);
        // As a sequence gives its blocks back: the end first.
        pool.release(blocks[1]);
        pool.release(blocks[0]);
        assert_eq!((pool.available(), pool.cached()), (2, 2));
        assert_eq!(pool.take(), Some(blocks[1]));
        assert_eq!(pool.find(Before::Block(link), &tokens(50)), None);
        assert_eq!(pool.find(ROOT, &tokens(0)), Some((link, blocks[0])));
    }

    #[test]
    fn the_same_tokens_after_others_or_with_another_adapter_are_something_else() {
        let mut pool = BlockPool::new(2);
        let block = pool.take().unwrap();
        let link = pool.fill(block, ROOT, tokens(0));
        assert_eq!(pool.find(Before::Block(link), &tokens(0)), None);
        assert_eq!(pool.find(Before::Nothing(Some(crate::adapter::Digest::of(b"a"))), &tokens(0)), None);
    }

    #[test]
    fn what_a_failed_step_should_have_computed_is_not_found() {
        let mut pool = BlockPool::new(2);
        let kept = pool.take().unwrap();
        pool.begin_step();
        pool.fill(kept, ROOT, tokens(0));
        let lost = pool.take().unwrap();
        pool.begin_step();
        pool.fill(lost, ROOT, tokens(9));
        pool.settle();
        pool.release(lost);
        pool.forget_unsettled();
        assert!(pool.find(ROOT, &tokens(0)).is_some());
        assert!(pool.find(ROOT, &tokens(9)).is_none());
        assert_eq!(pool.take(), Some(lost));
    }
}
