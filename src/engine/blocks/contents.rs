//! What full blocks hold, found by it: the prefix cache's index.
//!
//! A block's keys and values depend on its adapter, its tokens and all tokens before them. The index compares exactly
//! these (no hash stands for them), so what it finds is what the sequence would compute itself, to the bit.

use std::collections::{BTreeMap, HashMap};

use crate::adapter::Digest;
use crate::model::{BLOCK_TOKENS, BlockId};

/// Names everything up to the end of one block: never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Link(u64);

/// What stands before a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Before {
    /// Nothing: the first block of a sequence with this adapter, or of the plain base.
    Nothing(Option<Digest>),
    Block(Link),
}

type Key = (Before, [u32; BLOCK_TOKENS]);

/// Blocks by what they hold, and those among them that nobody uses, oldest first.
#[derive(Debug)]
pub struct Contents {
    found: HashMap<Key, (Link, BlockId)>,
    /// By block.
    keys: Vec<Option<Key>>,
    unused: BTreeMap<u64, BlockId>,
    /// By block: its place in `unused`.
    since: Vec<u64>,
    links: u64,
    clock: u64,
}

impl Contents {
    /// Nothing is known of `blocks` blocks.
    pub fn new(blocks: usize) -> Self {
        let (found, unused) = (HashMap::new(), BTreeMap::new());
        Self { found, keys: vec![None; blocks], unused, since: vec![0; blocks], links: 0, clock: 0 }
    }

    /// Blocks that can be found.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Blocks that can be found and nobody uses.
    pub fn unused(&self) -> usize {
        self.unused.len()
    }

    /// The block that holds `tokens` after `before`.
    pub fn find(&self, before: Before, tokens: &[u32; BLOCK_TOKENS]) -> Option<(Link, BlockId)> {
        self.found.get(&(before, *tokens)).copied()
    }

    /// Names what a block in use holds; whether it can now be found by it: not if another block already is.
    pub fn add(&mut self, block: BlockId, before: Before, tokens: [u32; BLOCK_TOKENS]) -> (Link, bool) {
        let key = (before, tokens);
        if let Some((link, _)) = self.found.get(&key) {
            return (*link, false);
        }
        let link = Link(self.links);
        self.links += 1;
        self.found.insert(key, (link, block));
        self.keys[block.0 as usize] = Some(key);
        (link, true)
    }

    /// Nobody uses a block any more; answers whether it is kept, because it can be found.
    pub fn retires(&mut self, block: BlockId) -> bool {
        let kept = self.keys[block.0 as usize].is_some();
        if kept {
            self.clock += 1;
            self.since[block.0 as usize] = self.clock;
            self.unused.insert(self.clock, block);
        }
        kept
    }

    /// A kept block is used again.
    pub fn uses(&mut self, block: BlockId) {
        self.unused.remove(&self.since[block.0 as usize]);
    }

    /// Gives up the block that has been unused for longest.
    pub fn evict(&mut self) -> Option<BlockId> {
        let (_, block) = self.unused.pop_first()?;
        self.forget(block);
        Some(block)
    }

    /// A block cannot be found any more; answers whether it could be.
    pub fn forget(&mut self, block: BlockId) -> bool {
        let key = self.keys[block.0 as usize].take();
        if let Some(key) = &key {
            self.found.remove(key);
            self.unused.remove(&self.since[block.0 as usize]);
        }
        key.is_some()
    }
}
