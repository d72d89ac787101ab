//! One request in the scheduler.

use crate::adapter::Digest;
use crate::model::{BLOCK_TOKENS, BlockId};

use super::super::blocks::{Before, BlockPool, Link};

/// Stands for the positions of a key-value prefix among the tokens of a sequence. Which prefix it is, its adapter says.
const PREFIX: u32 = u32::MAX;
/// Stands for a token that is not known yet.
const UNKNOWN: u32 = 0;

/// What a unit will need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Positions that are filled before the prompt (a key-value prefix).
    pub prefix: usize,
    /// Tokens of the prompt, at least one.
    pub prompt: usize,
    /// Longest answer; 0 for classification.
    pub answer: usize,
    /// Branches.
    pub width: usize,
    /// Whether it keeps keys and values (decoders), and so may be computed in chunks.
    pub cached: bool,
    /// Higher runs earlier.
    pub priority: i32,
}

impl Demand {
    /// The most blocks it can hold at once: the full blocks of the prompt, shared, and the rest for each branch.
    pub fn blocks(&self) -> usize {
        // The last answer token is chosen but never computed.
        self.blocks_up_to(self.prefix + self.prompt + self.answer.saturating_sub(1), self.width.max(1))
    }

    /// The same for `branches` branches of `positions` positions each.
    fn blocks_up_to(&self, positions: usize, branches: usize) -> usize {
        if !self.cached {
            return 0;
        }
        let shared = self.shared_blocks();
        shared + branches * (positions.div_ceil(BLOCK_TOKENS) - shared)
    }

    fn shared_blocks(&self) -> usize {
        (self.prefix + self.prompt) / BLOCK_TOKENS
    }
}

/// A request: its prompt, computed once, then branches that grow by a token per step.
///
/// Nothing but `len` and `blocks` says what is computed. A unit that lost its blocks is one whose branches have none: it
/// computes what it knows once more, as if all of it had been asked.
pub struct Unit {
    pub demand: Demand,
    pub adapter: Option<Digest>,
    prompt: Vec<u32>,
    pub branches: Vec<Branch>,
    /// Positions found in the cache before anything was computed.
    pub found: usize,
    /// Something was computed for it.
    pub computes_itself: bool,
}

/// One sequence of a unit.
#[derive(Clone, Default)]
pub struct Branch {
    /// Tokens chosen so far; the last is not computed yet, or by a step under way.
    pub answer: Vec<u32>,
    /// Whether the last of them only stands for one that a step under way chooses.
    unknown: bool,
    /// They cover `len` positions.
    pub blocks: Vec<BlockId>,
    /// Names of what the full blocks hold.
    links: Vec<Link>,
    /// Positions computed.
    pub len: usize,
}

impl Branch {
    /// The block that holds the next position to be computed, if it has one.
    pub fn written(&self) -> Option<BlockId> {
        self.blocks.get(self.len / BLOCK_TOKENS).copied()
    }

    /// Whether the next position takes a block: there is none for it, or one that others read too.
    pub fn needs_block(&self, pool: &BlockPool) -> bool {
        self.written().is_none_or(|block| pool.is_shared(block))
    }
}

impl Unit {
    /// A request of which nothing is computed.
    pub fn new(demand: Demand, adapter: Option<Digest>, prompt: Vec<u32>) -> Self {
        debug_assert_eq!(prompt.len(), demand.prompt);
        let mut unit =
            Self { demand, adapter, prompt, branches: vec![Branch::default()], found: 0, computes_itself: false };
        unit.restart();
        unit
    }

    /// Positions of a branch whose tokens are known, or will be before they are computed.
    pub fn known(&self, branch: usize) -> usize {
        self.demand.prefix + self.prompt.len() + self.branches[branch].answer.len()
    }

    /// Positions of a branch that are known and not computed.
    pub fn rest(&self, branch: usize) -> usize {
        self.known(branch) - self.branches[branch].len
    }

    /// Whether each branch lacks just the token that was chosen last.
    pub fn decodes(&self) -> bool {
        (0..self.branches.len()).all(|branch| !self.branches[branch].answer.is_empty() && self.rest(branch) == 1)
    }

    /// Whether the step under way chooses a token for it after which it may go on, if that does not end it.
    pub fn may_advance(&self) -> bool {
        let [branch] = &self.branches[..] else { return false };
        let goes_on = self.demand.cached && self.demand.width == 1 && branch.answer.len() + 1 < self.demand.answer;
        goes_on && !branch.unknown && self.rest(0) == 0
    }

    /// Goes on with a token that is not known yet, as [`Self::may_advance`] allows.
    pub fn advance(&mut self) {
        let branch = &mut self.branches[0];
        branch.answer.push(UNKNOWN);
        branch.unknown = true;
    }

    /// Whether a branch goes on with a token that is not known yet.
    pub fn is_unknown(&self, branch: usize) -> bool {
        self.branches[branch].unknown
    }

    /// Whether its prompt was computed once, so that its client hears of it.
    pub fn has_begun(&self) -> bool {
        self.branches.iter().any(|branch| !branch.answer.is_empty())
    }

    /// Tokens to compute before it decodes, as far as can be said now.
    pub fn backlog(&self) -> usize {
        let branches = (0..self.branches.len()).filter(|&branch| !self.waits_for_first(branch));
        branches.map(|branch| self.known(branch) - self.branches[branch].len.max(self.demand.prefix)).sum()
    }

    /// Blocks for all it knows, beyond those it holds.
    pub fn claim(&self) -> usize {
        let longest = (0..self.branches.len()).map(|branch| self.known(branch)).max().unwrap_or(0);
        let held = self.branches.iter().flat_map(|branch| &branch.blocks).collect::<std::collections::HashSet<_>>();
        self.demand.blocks_up_to(longest, self.branches.len()).saturating_sub(held.len())
    }

    /// Blocks that a token more for each branch takes.
    pub fn blocks_to_grow(&self, pool: &BlockPool) -> usize {
        self.branches.iter().filter(|branch| branch.needs_block(pool)).count()
    }

    /// Tokens `from..to` of a branch; `from` lies behind the prefix.
    pub fn tokens(&self, branch: usize, from: usize, to: usize) -> Vec<u32> {
        (from..to).map(|position| self.token(branch, position)).collect()
    }

    fn token(&self, branch: usize, position: usize) -> u32 {
        let Some(position) = position.checked_sub(self.demand.prefix) else { return PREFIX };
        match self.prompt.get(position) {
            Some(&token) => token,
            None => self.branches[branch].answer[position - self.prompt.len()],
        }
    }

    fn before(&self, branch: usize) -> Before {
        self.branches[branch].links.last().map_or(Before::Nothing(self.adapter), |&link| Before::Block(link))
    }

    fn block_tokens(&self, branch: usize, block: usize) -> [u32; BLOCK_TOKENS] {
        std::array::from_fn(|i| self.token(branch, block * BLOCK_TOKENS + i))
    }

    /// Names the blocks that are full now, so that others find them; none before all of its tokens are known.
    pub fn name_full_blocks(&mut self, branch: usize, pool: &mut BlockPool) {
        let unknown = usize::from(self.branches[branch].unknown);
        let nameable = self.branches[branch].len.min(self.known(branch) - unknown);
        while (self.branches[branch].links.len() + 1) * BLOCK_TOKENS <= nameable {
            let block = self.branches[branch].links.len();
            let (before, tokens) = (self.before(branch), self.block_tokens(branch, block));
            let Branch { blocks, links, .. } = &mut self.branches[branch];
            links.push(pool.fill(blocks[block], before, tokens));
        }
    }

    /// All branches take over what others computed.
    pub fn adopt_all(&mut self, pool: &mut BlockPool) {
        (0..self.branches.len()).for_each(|branch| self.adopt(branch, pool));
    }

    /// Takes over blocks that others computed, as far as they go; the last known position stays to be computed.
    pub fn adopt(&mut self, branch: usize, pool: &mut BlockPool) {
        if !self.demand.cached {
            return;
        }
        self.adopt_from_first(branch, pool);
        if self.waits_for_first(branch) {
            return;
        }
        loop {
            let Branch { len, ref blocks, .. } = self.branches[branch];
            let block = len / BLOCK_TOKENS;
            if blocks.len() * BLOCK_TOKENS != len || len + BLOCK_TOKENS >= self.known(branch) {
                return;
            }
            let Some((link, found)) = pool.find(self.before(branch), &self.block_tokens(branch, block)) else { return };
            pool.share(found);
            let branch = &mut self.branches[branch];
            branch.blocks.push(found);
            branch.links.push(link);
            branch.len += BLOCK_TOKENS;
            if !self.computes_itself {
                self.found += BLOCK_TOKENS;
            }
        }
    }

    /// Whether the first branch has to compute the prompt's full blocks for it.
    pub fn waits_for_first(&self, branch: usize) -> bool {
        branch > 0 && self.branches[branch].links.len() < self.demand.shared_blocks()
    }

    /// Branches share the prompt's full blocks with the first, so that they need no more than [`Demand::blocks`].
    fn adopt_from_first(&mut self, branch: usize, pool: &mut BlockPool) {
        let shared = self.demand.shared_blocks();
        let first = &self.branches[0];
        if !self.waits_for_first(branch) || first.links.len() < shared {
            return;
        }
        let (blocks, links) = (first.blocks[..shared].to_vec(), first.links[..shared].to_vec());
        blocks.iter().for_each(|&block| pool.share(block));
        let branch = &mut self.branches[branch];
        (branch.blocks, branch.links, branch.len) = (blocks, links, shared * BLOCK_TOKENS);
    }

    /// Branch `i` goes on as a copy of branch `grown[i].0` with the token `grown[i].1`; which may be the one it went on with
    /// before it was known.
    pub fn grow(&mut self, grown: &[(usize, u32)], pool: &mut BlockPool) {
        if let (&[(0, token)], [Branch { answer, unknown: unknown @ true, .. }]) = (grown, &mut self.branches[..]) {
            answer.pop();
            answer.push(token);
            *unknown = false;
            // A step under way computes it.
            return self.name_full_blocks(0, pool);
        }
        let mut old: Vec<Option<Branch>> = std::mem::take(&mut self.branches).into_iter().map(Some).collect();
        for (i, &(parent, token)) in grown.iter().enumerate() {
            // The last child takes the parent's place; the others are copies.
            let last = !grown[i + 1..].iter().any(|&(other, _)| other == parent);
            let branch = if last { old[parent].take() } else { old[parent].clone() };
            let Some(mut branch) = branch else { continue };
            if !last {
                branch.blocks.iter().for_each(|&block| pool.share(block));
            }
            branch.answer.push(token);
            self.branches.push(branch);
        }
        old.into_iter().flatten().for_each(|branch| release(branch.blocks, pool));
    }

    /// Gives all blocks back; what they held has to be computed (or found) again.
    pub fn give_back(&mut self, pool: &mut BlockPool) {
        self.branches.iter_mut().for_each(|branch| release(std::mem::take(&mut branch.blocks), pool));
        self.restart();
    }

    fn restart(&mut self) {
        if !self.computes_itself {
            self.found = 0;
        }
        for branch in &mut self.branches {
            branch.links.clear();
            // What keeps no keys and values applies a prefix by itself.
            branch.len = if self.demand.cached { 0 } else { self.demand.prefix };
        }
    }
}

/// The end of a sequence first, so that the cache gives it up before its beginning.
fn release(blocks: Vec<BlockId>, pool: &mut BlockPool) {
    blocks.into_iter().rev().for_each(|block| pool.release(block));
}
