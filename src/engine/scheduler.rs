//! Decides who runs in each step. Pure bookkeeping: no tensors, clocks or channels.
//!
//! A *unit* is one request: a prompt that is computed once, then branches (samples or beams) that grow by a token per step.
//! Branches of a unit run together. Blocks for the longest answer are promised at admission, so a unit that runs can finish.

use std::collections::{BTreeMap, VecDeque};

use crate::model::{BLOCK_TOKENS, BlockId};

use super::blocks::BlockPool;

/// The number of a unit, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitId(pub u64);

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
        if !self.cached {
            return 0;
        }
        let prompt = self.prefix + self.prompt;
        // The last answer token is chosen but never computed.
        let whole = (prompt + self.answer.saturating_sub(1)).div_ceil(BLOCK_TOKENS);
        let shared = prompt / BLOCK_TOKENS;
        shared + self.width.max(1) * (whole - shared)
    }
}

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
    /// Tokens to compute.
    pub tokens: usize,
    /// Blocks that cover everything up to this step's last token.
    pub blocks: Vec<BlockId>,
    /// The unit was just admitted: its prefix has to be written.
    pub first: bool,
    /// Whether the prompt is complete after this row, so that something comes out.
    pub last: bool,
}

/// The next step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows of a unit stand together.
    pub rows: Vec<PlannedRow>,
    /// Blocks to copy before the step (from, to): a shared block that is about to be written.
    pub copies: Vec<(BlockId, BlockId)>,
}

struct Unit {
    demand: Demand,
    /// Positions of the prompt computed so far, prefix included.
    computed: usize,
    branches: Vec<Branch>,
}

#[derive(Clone)]
struct Branch {
    blocks: Vec<BlockId>,
    /// Positions computed.
    len: usize,
}

impl Unit {
    fn decodes(&self) -> bool {
        self.computed == self.demand.prefix + self.demand.prompt
    }
}

/// Waiting and running units.
pub struct Scheduler {
    budget: Budget,
    pool: BlockPool,
    waiting: VecDeque<(UnitId, Demand)>,
    /// In order of arrival, so that older prompts come first.
    running: BTreeMap<UnitId, Unit>,
}

impl Scheduler {
    /// An empty scheduler over `blocks` blocks.
    pub fn new(budget: Budget, blocks: usize) -> Self {
        assert!(budget.running <= budget.tokens, "every running branch must fit into a step");
        Self { budget, pool: BlockPool::new(blocks), waiting: VecDeque::new(), running: BTreeMap::new() }
    }

    /// Forgets everything: all blocks are free again.
    pub fn reset(&mut self) {
        *self = Self::new(self.budget, self.pool.total());
    }

    /// Units that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Branches that run.
    pub fn running(&self) -> usize {
        self.running.values().map(|unit| unit.demand.width).sum()
    }

    /// The blocks.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Lets a unit wait for its turn. Its demand must be one that an empty scheduler could meet.
    pub fn enqueue(&mut self, id: UnitId, demand: Demand) {
        let at = self.waiting.partition_point(|(_, other)| other.priority >= demand.priority);
        self.waiting.insert(at, (id, demand));
    }

    /// Plans the next step: every branch that decodes, then prompts as far as the budget goes.
    pub fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        let mut tokens = self.budget.tokens;
        for (&id, unit) in self.running.iter_mut().filter(|(_, unit)| unit.decodes()) {
            decode(&mut plan, &mut self.pool, id, unit);
            tokens -= unit.branches.len();
        }
        for (&id, unit) in self.running.iter_mut().filter(|(_, unit)| !unit.decodes()) {
            tokens -= prefill(&mut plan, &mut self.pool, id, unit, tokens);
        }
        self.admit(&mut plan, tokens);
        plan
    }

    fn admit(&mut self, plan: &mut Plan, mut tokens: usize) {
        let mut running = self.running();
        while let Some(&(id, demand)) = self.waiting.front() {
            // What cannot be cut must fit, unless it has the step to itself.
            let fits = demand.cached || demand.prompt <= tokens || plan.rows.is_empty();
            if tokens == 0
                || !fits
                || running + demand.width > self.budget.running
                || !self.pool.promise(demand.blocks())
            {
                return;
            }
            self.waiting.pop_front();
            running += demand.width;
            let branch = Branch { blocks: vec![], len: demand.prefix };
            let mut unit = Unit { demand, computed: demand.prefix, branches: vec![branch] };
            tokens -= prefill(plan, &mut self.pool, id, &mut unit, tokens);
            self.running.insert(id, unit);
        }
    }

    /// After a step: branch `i` of a unit goes on as a copy of branch `parents[i]`. With no parents the unit ends.
    pub fn continue_with(&mut self, id: UnitId, parents: &[usize]) {
        if parents.is_empty() {
            return self.end(id);
        }
        let Some(unit) = self.running.get_mut(&id) else { return };
        let branches: Vec<Branch> = parents.iter().map(|&parent| unit.branches[parent].clone()).collect();
        branches.iter().flat_map(|branch| &branch.blocks).for_each(|&block| self.pool.share(block));
        let old = std::mem::replace(&mut unit.branches, branches);
        old.iter().flat_map(|branch| &branch.blocks).for_each(|&block| self.pool.release(block));
    }

    /// Forgets a unit, wherever it is; its blocks are free at once.
    pub fn end(&mut self, id: UnitId) {
        self.waiting.retain(|(other, _)| *other != id);
        if let Some(unit) = self.running.remove(&id) {
            unit.branches.iter().flat_map(|branch| &branch.blocks).for_each(|&block| self.pool.release(block));
            self.pool.forget(unit.demand.blocks());
        }
    }
}

/// One token for each branch; a shared block that is about to be written is copied first.
fn decode(plan: &mut Plan, pool: &mut BlockPool, id: UnitId, unit: &mut Unit) {
    for (index, branch) in unit.branches.iter_mut().enumerate() {
        match branch.blocks.get_mut(branch.len / BLOCK_TOKENS) {
            Some(block) if pool.is_shared(*block) => {
                let own = pool.take();
                plan.copies.push((*block, own));
                pool.release(*block);
                *block = own;
            }
            Some(_) => {}
            None => branch.blocks.push(pool.take()),
        }
        let blocks = branch.blocks.clone();
        let row =
            PlannedRow { unit: id, branch: index, start: branch.len, tokens: 1, blocks, first: false, last: true };
        plan.rows.push(row);
        branch.len += 1;
    }
}

/// The next chunk of a prompt, at most `tokens` long (all of it if it cannot be cut). Answers how much of the budget it took.
fn prefill(plan: &mut Plan, pool: &mut BlockPool, id: UnitId, unit: &mut Unit, tokens: usize) -> usize {
    let Demand { prefix, prompt, cached, .. } = unit.demand;
    let rest = prefix + prompt - unit.computed;
    let count = if cached { rest.min(tokens) } else { rest };
    if count == 0 {
        return 0;
    }
    let branch = &mut unit.branches[0];
    let start = unit.computed;
    unit.computed += count;
    branch.len = unit.computed;
    while cached && branch.blocks.len() * BLOCK_TOKENS < unit.computed {
        branch.blocks.push(pool.take());
    }
    plan.rows.push(PlannedRow {
        unit: id,
        branch: 0,
        start,
        tokens: count,
        blocks: branch.blocks.clone(),
        first: start == prefix,
        last: count == rest,
    });
    count.min(tokens)
}

#[cfg(test)]
mod tests;
