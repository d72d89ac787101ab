//! A model that only remembers: every slot of its store holds which tokens it was computed from.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::super::*;

/// A request of a trace.
#[derive(Clone, Debug)]
pub struct Ask {
    pub demand: Demand,
    /// 0: the base.
    pub adapter: u8,
    /// In which step it comes.
    pub arrives: usize,
    /// Requests of one topic begin alike.
    pub topic: u32,
}

/// What stands at a position: a digest of the adapter and all tokens up to there.
type Content = u64;

struct Asked {
    ask: Ask,
    prompt: Vec<u32>,
    /// The answer of each branch; one empty branch until the prompt is computed.
    branches: Vec<Vec<u32>>,
    left: usize,
}

impl Asked {
    fn digest(&self) -> Option<Digest> {
        (self.ask.adapter > 0).then(|| Digest::of(&[self.ask.adapter]))
    }

    /// What must stand at the positions of a branch.
    fn contents(&self, branch: usize) -> Vec<Content> {
        let prefix = std::iter::repeat_n(None, self.ask.demand.prefix);
        let tokens = self.prompt.iter().chain(&self.branches[branch]).map(Some);
        let mut hasher = DefaultHasher::new();
        self.ask.adapter.hash(&mut hasher);
        let content = |token: Option<&u32>| {
            token.hash(&mut hasher);
            hasher.finish()
        };
        prefix.chain(tokens).map(content).collect()
    }
}

pub struct Simulation {
    scheduler: Scheduler,
    /// Whether a step may begin before it is known what the one before chose.
    ahead: bool,
    budget: Budget,
    coming: Vec<Ask>,
    inside: BTreeMap<UnitId, Asked>,
    /// Steps under way; a model takes them in order.
    begun: VecDeque<Plan>,
    /// Those who left; steps under way still compute what they asked for.
    left: BTreeMap<UnitId, Asked>,
    store: HashMap<(BlockId, usize), Content>,
    choices: std::iter::Cycle<std::vec::IntoIter<u8>>,
    /// How often units were not ready.
    refused: HashMap<UnitId, u8>,
    next: u64,
}

impl Simulation {
    /// Requests that an empty scheduler could not meet are left out, as admission does.
    pub fn new(budget: Budget, blocks: usize, asks: Vec<Ask>, choices: Vec<u8>, ahead: bool) -> Self {
        let fits = |ask: &Ask| ask.demand.blocks() <= blocks && ask.demand.width <= budget.running;
        let mut coming: Vec<Ask> = asks.into_iter().filter(fits).collect();
        coming.sort_by_key(|ask| std::cmp::Reverse(ask.arrives));
        Self {
            scheduler: Scheduler::new(budget, blocks),
            ahead,
            budget,
            coming,
            inside: BTreeMap::new(),
            begun: VecDeque::new(),
            left: BTreeMap::new(),
            store: HashMap::new(),
            choices: choices.into_iter().cycle(),
            refused: HashMap::new(),
            next: 0,
        }
    }

    fn choice(&mut self) -> usize {
        self.choices.next().unwrap_or(0).into()
    }

    pub fn run(mut self) {
        for step in 0.. {
            assert!(step < 10_000, "somebody starves");
            self.let_in(step);
            if self.inside.is_empty() && self.begun.is_empty() {
                if self.coming.is_empty() {
                    break;
                }
                continue;
            }
            self.step();
        }
        let pool = self.scheduler.pool();
        assert_eq!(pool.available(), pool.total(), "blocks are conserved");
        assert_eq!((self.scheduler.waiting(), self.scheduler.running()), (0, 0));
    }

    fn let_in(&mut self, step: usize) {
        while self.coming.last().is_some_and(|ask| ask.arrives <= step) {
            let Some(ask) = self.coming.pop() else { return };
            let id = UnitId(self.next);
            self.next += 1;
            // The beginning is its topic's, the end its own; of one topic, all are alike, and like what answers may be.
            let common = ask.demand.prompt * 3 / 4;
            let token = |at: usize| match ask.topic {
                0 => 0,
                topic if at < common => topic * 1000 + at as u32,
                _ => id.0 as u32 * 1000 + at as u32,
            };
            let prompt: Vec<u32> = (0..ask.demand.prompt).map(token).collect();
            let asked = Asked { left: ask.demand.answer, prompt: prompt.clone(), branches: vec![vec![]], ask };
            self.scheduler.enqueue(id, asked.ask.demand, asked.digest(), prompt);
            self.inside.insert(id, asked);
        }
    }

    fn step(&mut self) {
        // A client leaves now and then.
        if !self.inside.is_empty() && self.choice() % 31 == 30 {
            let nth = self.choice() % self.inside.len();
            let id = *self.inside.keys().nth(nth).unwrap();
            return self.end(id);
        }
        let under_way = !self.begun.is_empty();
        if !under_way || self.goes_ahead() {
            self.begin(under_way);
        }
        // Without ahead, a step ends before anything else happens.
        if under_way || !self.ahead {
            self.land();
        }
    }

    /// Whether the next step can begin: all that the one under way chooses belongs to units of one branch.
    fn goes_ahead(&mut self) -> bool {
        let alone = |id| self.inside.get(id).is_none_or(|asked: &Asked| asked.ask.demand.width == 1);
        let chooses = self.begun[0].rows.iter().filter(|row| row.last);
        chooses.map(|row| &row.unit).all(alone) && !self.choice().is_multiple_of(4) && self.scheduler.advance()
    }

    fn begin(&mut self, ahead: bool) {
        let most = self.choice() % (1 + self.budget.tokens);
        let preemptions = self.scheduler.preemptions();
        let Self { scheduler, choices, refused, .. } = self;
        let mut all_ready = true;
        let plan = scheduler.plan(most, |id| {
            // Nobody is refused for ever.
            let times = refused.entry(id).or_default();
            let ready = *times >= choices.next().unwrap_or(0) % 4;
            *times += u8::from(!ready);
            all_ready &= ready;
            ready
        });
        if ahead {
            assert_eq!(self.scheduler.preemptions(), preemptions, "somebody gave up blocks for a step ahead");
        }
        if plan.rows.is_empty() && (ahead || !all_ready) {
            return;
        }
        self.check_plan(&plan, most);
        if self.choice() % 61 == 60 {
            // It could not begin: the step before is over first.
            self.land();
            self.fail(&plan);
        } else {
            self.begun.push_back(plan);
        }
    }

    fn land(&mut self) {
        let Some(plan) = self.begun.pop_front() else { return };
        if self.choice() % 29 == 28 {
            self.fail(&plan);
            if let Some(next) = self.begun.pop_front() {
                self.fail(&next);
            }
            return;
        }
        self.carry_out(&plan);
        self.scheduler.carried_out();
        for rows in plan.rows.chunk_by(|a, b| a.unit == b.unit) {
            if rows[0].last {
                self.go_on(rows[0].unit, rows.len());
            }
        }
        let counts = |id: &UnitId| self.begun.iter().flat_map(|plan| &plan.rows).any(|row| row.unit == *id);
        self.left.retain(|id, _| counts(id));
    }

    fn fail(&mut self, plan: &Plan) {
        // It wrote who knows what before it failed.
        self.store.extend(self.written(plan).into_iter().map(|slot| (slot, 0)));
        self.scheduler.fail(plan);
        self.inside.retain(|id, _| plan.rows.iter().all(|row| row.unit != *id));
    }

    fn end(&mut self, id: UnitId) {
        self.scheduler.end(id);
        self.left.extend(self.inside.remove(&id).map(|asked| (id, asked)));
    }

    fn check_plan(&self, plan: &Plan, most: usize) {
        assert!(!plan.rows.is_empty(), "nobody runs");
        let tokens: usize = plan.rows.iter().map(|row| row.tokens.len()).sum();
        assert!(tokens <= self.budget.tokens, "{tokens} tokens in a step of {}", self.budget.tokens);
        assert_eq!(tokens, plan.decoding + plan.prompt_tokens);
        assert!(plan.prompt_tokens <= most.max(1), "{} tokens of prompts, at most {most}", plan.prompt_tokens);
        assert!(self.scheduler.running() <= self.budget.running);
        let written = self.written(plan);
        assert_eq!(written.iter().collect::<HashSet<_>>().len(), written.len(), "two rows write the same place");
        for rows in plan.rows.chunk_by(|a, b| a.unit == b.unit) {
            let asked = &self.inside[&rows[0].unit];
            assert!(rows.iter().all(|row| row.last == rows[0].last), "branches give their logits together");
            assert!(!rows[0].last || rows.len() == asked.branches.len());
            for row in rows {
                let end = row.start + row.tokens.len();
                assert_eq!(row.blocks.len(), end.div_ceil(BLOCK_TOKENS));
                let answer = asked.branches[row.branch].iter().copied().chain(row.follows.then_some(0));
                let known = asked.prompt.iter().copied().chain(answer).collect::<Vec<_>>();
                let prefix = asked.ask.demand.prefix;
                assert_eq!(row.tokens, known[row.start - prefix..end - prefix], "the tokens are its own");
                assert_eq!(row.last, end == prefix + known.len());
            }
        }
    }

    /// Places of the store that a plan writes, prefixes included.
    fn written(&self, plan: &Plan) -> Vec<(BlockId, usize)> {
        let places = |row: &PlannedRow| {
            let blocks = row.blocks.clone();
            let range = row.prefix_from.unwrap_or(row.start)..row.start + row.tokens.len();
            range.map(move |at| (blocks[at / BLOCK_TOKENS], at % BLOCK_TOKENS))
        };
        plan.rows.iter().flat_map(places).collect()
    }

    fn carry_out(&mut self, plan: &Plan) {
        for (from, to) in &plan.copies {
            for slot in 0..BLOCK_TOKENS {
                let content = self.store.get(&(*from, slot)).copied();
                content.map(|content| self.store.insert((*to, slot), content));
            }
        }
        for row in &plan.rows {
            let contents = self.contents(row);
            let written = row.prefix_from.unwrap_or(row.start)..row.start + row.tokens.len();
            // A token after an end is nobody's.
            let content = |at: usize| contents.get(at).copied().unwrap_or(0);
            self.store.extend(written.map(|at| ((row.blocks[at / BLOCK_TOKENS], at % BLOCK_TOKENS), content(at))));
        }
        // As in a model, where all keys and values of a layer are written before any are read.
        for row in &plan.rows {
            let contents = self.contents(row);
            for (at, content) in contents.iter().enumerate().take(row.start + row.tokens.len()) {
                let found = self.store.get(&(row.blocks[at / BLOCK_TOKENS], at % BLOCK_TOKENS));
                assert_eq!(found, Some(content), "position {at} of {:?}", row.unit);
            }
        }
    }

    fn contents(&self, row: &PlannedRow) -> Vec<Content> {
        let asked = self.inside.get(&row.unit).or_else(|| self.left.get(&row.unit));
        asked.expect("somebody asked for it").contents(row.branch)
    }

    /// Chooses the next tokens of a unit that ran `rows` branches, or ends it.
    fn go_on(&mut self, id: UnitId, rows: usize) {
        let choice = self.choice();
        let Some(asked) = self.inside.get_mut(&id) else { return };
        asked.left -= 1;
        if asked.left == 0 || choice == 255 {
            return self.end(id);
        }
        let width = 1 + choice % asked.ask.demand.width;
        // Few different tokens, so that branches and requests meet again.
        let grown: Vec<(usize, u32)> = (0..width).map(|i| ((choice + i) % rows, (choice / 4 % 2 + i) as u32)).collect();
        asked.branches = grown
            .iter()
            .map(|&(parent, token)| asked.branches[parent].iter().copied().chain([token]).collect())
            .collect();
        self.scheduler.grow(id, &grown);
    }
}
