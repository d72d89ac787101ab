//! Decides who runs in each step. Pure bookkeeping: no tensors, clocks or channels.
//!
//! A *unit* is one request: a prompt that is computed once, then branches (samples or beams) that grow by a token per step.
//! Branches of a unit run, fork and are preempted together. Blocks are taken as sequences grow; when none is left, the
//! unit that ranks lowest (priority, then age) gives its own back and computes what it knows again later. A unit that
//! decodes is therefore held up only by those that rank above it, and whatever an empty scheduler could run ends.

mod grants;
mod shares;
mod unit;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};

use crate::adapter::Digest;
use crate::model::{BLOCK_TOKENS, BlockId};

use super::blocks::BlockPool;
use grants::{Backlog, grants};
use shares::{ANSWER_TOKEN, PROMPT_TOKEN, Shares};
pub use unit::Demand;
use unit::Unit;

/// The number of a unit, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitId(pub u64);

/// Limits of a step.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Tokens computed per step.
    pub tokens: usize,
    /// Branches that run at once; no more than `tokens`.
    pub running: usize,
}

/// One row of the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRow {
    pub unit: UnitId,
    /// Which branch of the unit.
    pub branch: usize,
    /// Positions already computed.
    pub start: usize,
    /// The tokens to compute.
    pub tokens: Vec<u32>,
    /// Blocks that cover everything up to this step's last token. What is not computed yet, other rows of this step compute.
    pub blocks: Vec<BlockId>,
    /// The key-value prefix has to be written from this position on.
    pub prefix_from: Option<usize>,
    /// Whether the known tokens are complete after this row, so that something comes out.
    pub last: bool,
    /// Whether `tokens` holds a 0 for the one token that the step before chooses for the same branch.
    pub follows: bool,
}

/// The next step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows of a unit stand together.
    pub rows: Vec<PlannedRow>,
    /// Blocks to copy before the step (from, to): a shared block that is about to be written.
    pub copies: Vec<(BlockId, BlockId)>,
    /// Rows among them that decode: one token each.
    pub decoding: usize,
    /// Tokens of the other rows.
    pub prompt_tokens: usize,
}

/// Waiting and running units.
pub struct Scheduler {
    budget: Budget,
    pool: BlockPool,
    shares: Shares,
    waiting: BTreeMap<UnitId, Unit>,
    running: BTreeMap<UnitId, Unit>,
    preemptions: u64,
}

impl Scheduler {
    /// An empty scheduler over `blocks` blocks.
    pub fn new(budget: Budget, blocks: usize) -> Self {
        assert!(budget.running <= budget.tokens, "every running branch must fit into a step");
        Self {
            budget,
            pool: BlockPool::new(blocks),
            shares: Shares::default(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            preemptions: 0,
        }
    }

    /// Forgets everything: all blocks are free again and hold nothing.
    pub fn reset(&mut self) {
        let preemptions = self.preemptions;
        *self = Self { preemptions, ..Self::new(self.budget, self.pool.total()) };
    }

    /// Units that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Branches that run.
    pub fn running(&self) -> usize {
        self.running.values().map(|unit| unit.demand.width).sum()
    }

    /// Branches that are due for a token each.
    pub fn decoding(&self) -> usize {
        self.running.values().filter(|unit| unit.decodes()).map(|unit| unit.branches.len()).sum()
    }

    /// Units that wait for their first token.
    pub fn prompts(&self) -> usize {
        self.waiting.values().chain(self.running.values()).filter(|unit| !unit.has_begun()).count()
    }

    /// How often a unit gave its blocks back to others.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// The blocks.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Positions of a running unit's prompt, prefix included, that were found in the cache.
    pub fn found(&self, id: UnitId) -> usize {
        self.running.get(&id).map_or(0, |unit| unit.found)
    }

    /// Lets a unit wait for its turn. Its demand must be one that an empty scheduler could meet; `prompt` has as many
    /// tokens as it says. `adapter` is what keys and values depend on besides the tokens, and whose share it takes.
    pub fn enqueue(&mut self, id: UnitId, demand: Demand, adapter: Option<Digest>, prompt: Vec<u32>) {
        self.shares.arrives(adapter);
        self.waiting.insert(id, Unit::new(demand, adapter, prompt));
    }

    /// Lets the units for which the step under way chooses tokens go on with them, before they are known: [`Self::grow`] tells
    /// them, or [`Self::end`] says that there is no further one. Answers no, and does nothing, if blocks are so short that
    /// somebody would have to give up its own; then the step is waited for.
    ///
    /// Only where that step chooses for all units that are complete.
    pub fn advance(&mut self) -> bool {
        self.catch_up();
        let grow = self.running.values().filter(|unit| unit.decodes() || unit.may_advance());
        let blocks: usize = grow.map(|unit| unit.blocks_to_grow(&self.pool)).sum();
        if blocks > self.pool.available() {
            return false;
        }
        self.running.values_mut().filter(|unit| unit.may_advance()).for_each(Unit::advance);
        true
    }

    /// Plans the next step: who is let in, every branch that decodes, then at most `prompt_tokens` tokens of prompts
    /// (at least one if nothing else runs). Who has its turn is let in if it is `ready`: where that says no, others go before it.
    ///
    /// Taken as said that the plans before were or will be carried out, unless [`Self::fail`] says otherwise.
    pub fn plan(&mut self, prompt_tokens: usize, ready: impl FnMut(UnitId) -> bool) -> Plan {
        self.pool.begin_step();
        // First, because who finds all it knows decodes in this step.
        self.catch_up();
        self.admit(ready);
        let mut plan = Plan::default();
        for id in self.ranked() {
            self.decode(&mut plan, id);
        }
        plan.decoding = plan.rows.len();
        // Somebody has to run.
        let least = usize::from(plan.rows.is_empty());
        let tokens = prompt_tokens.max(least).min(self.budget.tokens - plan.decoding);
        for (id, tokens) in grants(self.backlogs(), tokens) {
            plan.prompt_tokens += self.prefill(&mut plan, id, tokens);
        }
        if plan.rows.is_empty() {
            self.pool.withdraw_step();
        }
        plan
    }

    /// The first of the plans under way was carried out.
    pub fn carried_out(&mut self) {
        self.pool.settle();
    }

    /// Units that do not decode take over what others computed.
    fn catch_up(&mut self) {
        let behind = self.running.values_mut().filter(|unit| !unit.decodes());
        behind.for_each(|unit| unit.adopt_all(&mut self.pool));
    }

    /// After a step: branch `i` of a unit goes on as a copy of branch `grown[i].0` with the token `grown[i].1`.
    pub fn grow(&mut self, id: UnitId, grown: &[(usize, u32)]) {
        if let Some(unit) = self.running.get_mut(&id) {
            unit.grow(grown, &mut self.pool);
        }
    }

    /// Forgets a unit, wherever it is; its blocks are free at once, or kept for others to find.
    pub fn end(&mut self, id: UnitId) {
        let waiting = self.waiting.remove(&id);
        let waited = waiting.is_some();
        let Some(mut unit) = waiting.or_else(|| self.running.remove(&id)) else { return };
        unit.give_back(&mut self.pool);
        self.shares.leaves(unit.adapter, waited);
    }

    /// A step was not carried out, nor what was planned after it: its units are forgotten, and what all of these should have
    /// computed. Who counted on that starts again.
    pub fn fail(&mut self, plan: &Plan) {
        plan.rows.iter().for_each(|row| self.end(row.unit));
        let unsettled: HashSet<BlockId> = self.pool.forget_unsettled().into_iter().collect();
        let counts_on =
            |unit: &Unit| unit.branches.iter().flat_map(|b| &b.blocks).any(|block| unsettled.contains(block));
        let misled: Vec<UnitId> = self.running.iter().filter(|(_, unit)| counts_on(unit)).map(|(&id, _)| id).collect();
        misled.into_iter().for_each(|id| self.send_back(id));
    }

    /// Running units, the one that may displace all others first.
    fn ranked(&self) -> Vec<UnitId> {
        let mut ids: Vec<UnitId> = self.running.keys().copied().collect();
        ids.sort_by_key(|id| (Reverse(self.running[id].demand.priority), *id));
        ids
    }

    /// Lets waiting units in as long as branches and blocks last: by priority, then whom a client already hears before those who have
    /// not begun, then the adapter that was served least, then age.
    fn admit(&mut self, mut ready: impl FnMut(UnitId) -> bool) {
        let mut branches = self.running();
        if branches >= self.budget.running {
            return;
        }
        // Letting units in changes nothing about their order.
        let order = |(id, unit): (&UnitId, &Unit)| {
            Reverse((Reverse(unit.demand.priority), !unit.has_begun(), self.shares.served(unit.adapter), *id))
        };
        let mut next: BinaryHeap<_> = self.waiting.iter().map(order).collect();
        while let Some(Reverse((.., id))) = next.pop() {
            let width = self.waiting[&id].demand.width;
            if branches + width > self.budget.running {
                return;
            }
            let Some(mut unit) = self.waiting.remove(&id) else { return };
            unit.adopt_all(&mut self.pool);
            let has_room = self.has_room(&unit);
            if !has_room || !ready(id) {
                unit.give_back(&mut self.pool);
                self.waiting.insert(id, unit);
                if has_room {
                    continue;
                }
                return;
            }
            branches += width;
            self.shares.starts(unit.adapter);
            self.running.insert(id, unit);
        }
    }

    /// Whether there are blocks for all that a unit knows, after all that running ones know and a block each to grow.
    fn has_room(&self, unit: &Unit) -> bool {
        if !unit.demand.cached || self.running.is_empty() {
            return true;
        }
        let claimed = |unit: &Unit| if unit.decodes() { unit.branches.len() } else { unit.claim() };
        let claims: usize = self.running.values().map(claimed).sum();
        claims + unit.claim() <= self.pool.available()
    }

    /// One token for each branch; a shared block that is about to be written is copied first.
    fn decode(&mut self, plan: &mut Plan, id: UnitId) {
        // It may have lost its place to a unit that ranks higher.
        let Some(unit) = self.running.get(&id).filter(|unit| unit.decodes()) else { return };
        let (rows, copies) = (plan.rows.len(), plan.copies.len());
        for branch in 0..unit.branches.len() {
            if !self.decode_branch(plan, id, branch) {
                plan.rows.truncate(rows);
                plan.copies.truncate(copies);
                return;
            }
        }
        // Not before all of them have a place: what is named will be computed.
        if let Some(unit) = self.running.get_mut(&id) {
            (0..unit.branches.len()).for_each(|branch| unit.name_full_blocks(branch, &mut self.pool));
            self.shares.charge(unit.adapter, unit.branches.len() as u64 * ANSWER_TOKEN);
        }
    }

    /// Answers whether there was a block to write.
    fn decode_branch(&mut self, plan: &mut Plan, id: UnitId, branch: usize) -> bool {
        let at = &self.running[&id].branches[branch];
        let written = at.written();
        let own = match at.needs_block(&self.pool) {
            false => None,
            true => match self.take_for(id) {
                Some(block) => Some(block),
                None => return false,
            },
        };
        let Some(unit) = self.running.get_mut(&id) else { return false };
        let at = &mut unit.branches[branch];
        match (written, own) {
            (_, None) => {}
            (None, Some(own)) => at.blocks.push(own),
            (Some(shared), Some(own)) => {
                plan.copies.push((shared, own));
                self.pool.release(shared);
                at.blocks[at.len / BLOCK_TOKENS] = own;
            }
        }
        let start = at.len;
        at.len += 1;
        let blocks = at.blocks.clone();
        let (tokens, follows) = (unit.tokens(branch, start, start + 1), unit.is_unknown(branch));
        plan.rows.push(PlannedRow { unit: id, branch, start, tokens, blocks, prefix_from: None, last: true, follows });
        true
    }

    /// A block for a unit that decodes, taken from the units that rank lowest if need be. None if it ranks lowest itself:
    /// then it has given up its own.
    fn take_for(&mut self, id: UnitId) -> Option<BlockId> {
        loop {
            if let Some(block) = self.pool.take() {
                return Some(block);
            }
            let lowest = *self.ranked().last()?;
            self.send_back(lowest);
            self.preemptions += 1;
            if lowest == id {
                return None;
            }
        }
    }

    /// A running unit waits again, without blocks.
    fn send_back(&mut self, id: UnitId) {
        if let Some(mut unit) = self.running.remove(&id) {
            unit.give_back(&mut self.pool);
            self.shares.returns(unit.adapter);
            self.waiting.insert(id, unit);
        }
    }

    fn backlogs(&self) -> Vec<Backlog> {
        let behind = self.running.iter().filter(|(_, unit)| !unit.decodes());
        let backlog = |(&id, unit): (&UnitId, &Unit)| Backlog {
            id,
            priority: unit.demand.priority,
            served: self.shares.served(unit.adapter),
            tokens: unit.backlog(),
            divisible: unit.demand.cached,
        };
        // Who decodes in this step has nothing left to compute.
        behind.map(backlog).filter(|backlog| backlog.tokens > 0).collect()
    }

    /// The next tokens of a prompt (after a preemption: of all branches), at most `budget`. Answers how many. It displaces
    /// nobody: if blocks are short, it goes as far as they reach and waits for more.
    fn prefill(&mut self, plan: &mut Plan, id: UnitId, budget: usize) -> usize {
        let Some(unit) = self.running.get_mut(&id) else { return 0 };
        let mut left = budget;
        for branch in 0..unit.branches.len() {
            if left == 0 {
                break;
            }
            if let Some(row) = next_piece(id, unit, branch, left, &mut self.pool) {
                left -= row.tokens.len();
                plan.rows.push(row);
            }
        }
        // What was lost to others is not asked for twice.
        if !unit.has_begun() {
            self.shares.charge(unit.adapter, (budget - left) as u64 * PROMPT_TOKEN);
        }
        budget - left
    }
}

/// The next at most `budget` tokens of a branch that is not complete, as far as there are blocks for them.
fn next_piece(id: UnitId, unit: &mut Unit, branch: usize, budget: usize, pool: &mut BlockPool) -> Option<PlannedRow> {
    unit.adopt(branch, pool);
    if unit.waits_for_first(branch) {
        return None;
    }
    let prefix = unit.demand.prefix;
    let computed = unit.branches[branch].len;
    let start = computed.max(prefix);
    // Branches give their logits together, in a step of their own.
    let goal = if unit.branches.len() == 1 { unit.known(branch) } else { unit.known(branch) - 1 };
    let mut end = goal.min(start + budget);
    if unit.demand.cached {
        let blocks = &mut unit.branches[branch].blocks;
        while blocks.len() * BLOCK_TOKENS < end {
            match pool.take() {
                Some(block) => blocks.push(block),
                None => break,
            }
        }
        end = end.min(blocks.len() * BLOCK_TOKENS);
    }
    if end <= start {
        return None;
    }
    unit.computes_itself = true;
    unit.branches[branch].len = end;
    let blocks = unit.branches[branch].blocks.clone();
    if unit.demand.cached {
        unit.name_full_blocks(branch, pool);
    }
    Some(PlannedRow {
        unit: id,
        branch,
        start,
        tokens: unit.tokens(branch, start, end),
        blocks,
        prefix_from: (computed < prefix).then_some(computed),
        last: unit.branches.len() == 1 && end == unit.known(branch),
        follows: false,
    })
}

#[cfg(test)]
mod tests;
