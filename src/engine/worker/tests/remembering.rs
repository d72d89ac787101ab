//! A model without weights: what it says depends on every token it finds in its store, and on nothing else. Like a GPU it takes
//! what is asked in order and computes later: not before it is waited for.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use repertoire_kernels::cpu::LogSoftmax;

use crate::adapter::{Adapter, Digest, EmbeddingSite, SiteMap};
use crate::device::{Activations, Buffer};
use crate::engine::Parameters;
use crate::engine::sampler::{Candidates, Weights};
use crate::model::{
    BLOCK_TOKENS, BaseModel, Batch, BlockId, Called, Choice, Draw, Held, KvShape, Output, Outputs, Pass, Row, Warm,
};

pub const VOCAB: usize = 256;
pub const EOS: u32 = 0;
/// What it says, besides the end.
pub const LETTERS: &[u8] = b"abcdef";

/// Whether and where it lets the engine go ahead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ability {
    /// As the CPU: gives logits to be drawn from, and a step is over before the next.
    Serial,
    /// As a GPU.
    Ahead,
}

/// A step that goes wrong, by number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub begin: Option<usize>,
    pub finish: Option<usize>,
    pub panics: bool,
}

enum Task {
    Copy(Vec<(BlockId, BlockId)>),
    Prefix(Digest, usize, Vec<BlockId>, usize),
    Step(Batch),
}

pub struct Remembering {
    sites: Arc<SiteMap>,
    ability: Ability,
    faults: Faults,
    /// Rows with this adapter cannot follow.
    stays: Digest,
    /// How many adapters fit on the device, and those that are there or on their way.
    room: usize,
    there: HashMap<Digest, Arc<()>>,
    /// By the number of the call that began it.
    arriving: HashMap<Digest, usize>,
    calls: usize,
    tasks: VecDeque<Task>,
    /// What stands at a position: a digest of its token, its adapter, and what stands before.
    store: HashMap<(BlockId, usize), u64>,
    /// Of the step that was finished last.
    choices: Vec<Choice>,
    begun: usize,
    finished: usize,
}

impl Remembering {
    pub fn new(ability: Ability, faults: Faults, stays: Digest, room: usize) -> Self {
        Self {
            sites: sites(),
            ability,
            faults,
            stays,
            room,
            there: HashMap::new(),
            arriving: HashMap::new(),
            calls: 0,
            tasks: VecDeque::new(),
            store: HashMap::new(),
            choices: vec![],
            begun: 0,
            finished: 0,
        }
    }

    fn goes_wrong(&self, at: Option<usize>, step: usize) -> Result<()> {
        match at == Some(step) {
            true if self.faults.panics => panic!("it goes wrong"),
            true => candle_core::bail!("it goes wrong"),
            false => Ok(()),
        }
    }

    /// The steps under way.
    fn under_way(&self) -> Vec<&Batch> {
        let steps = self.tasks.iter().filter_map(|task| match task {
            Task::Step(batch) => Some(batch),
            Task::Copy(_) | Task::Prefix(..) => None,
        });
        steps.collect()
    }

    fn compute(&mut self, batch: &Batch) -> Result<Outputs> {
        for row in &batch.rows {
            let adapter = row.adapter.as_ref().map(|adapter| adapter.digest);
            for (at, line) in row.tokens.clone().enumerate() {
                let token = row.follows.map_or(batch.tokens[line], |choice| self.choices[choice].id);
                self.put(&row.blocks, row.start + at, (token, adapter));
            }
        }
        let mut outputs = Outputs::default();
        let mut logits = vec![];
        for row in &batch.rows {
            let scores = self.logits(row)?;
            match row.output {
                Output::Nothing => {}
                Output::Logits => logits.extend(scores),
                Output::Choice => outputs.choices.push(choose(&scores, row.draw)),
                Output::Scores => outputs.scores.push(scores[..2].to_vec()),
            }
        }
        let count = logits.len() / VOCAB;
        outputs.logits = (count > 0).then(|| Activations::new(Buffer::from(logits), count, VOCAB)).transpose()?;
        self.choices.clone_from(&outputs.choices);
        Ok(outputs)
    }

    fn put(&mut self, blocks: &[BlockId], position: usize, what: impl Hash) {
        let place = |position: usize| (blocks[position / BLOCK_TOKENS], position % BLOCK_TOKENS);
        let before = position.checked_sub(1).map(|before| self.store.get(&place(before)));
        self.store.insert(place(position), hash((before, what)));
    }

    /// Of everything the row sees.
    fn logits(&self, row: &Row) -> Result<Vec<f32>> {
        let all = (0..row.start + row.tokens.len()).map(|at| (row.blocks[at / BLOCK_TOKENS], at % BLOCK_TOKENS));
        let Some(seen) = all.map(|place| self.store.get(&place)).collect::<Option<Vec<_>>>() else {
            candle_core::bail!("a row sees what was never written");
        };
        let seen = hash(seen);
        let mut logits = vec![-30.0; VOCAB];
        for &letter in LETTERS {
            logits[letter as usize] = (hash((seen, letter)) % 1000) as f32 / 250.0;
        }
        logits[EOS as usize] = if hash((seen, "end")) % 15 == 0 { 6.0 } else { -30.0 };
        Ok(logits)
    }
}

fn sites() -> Arc<SiteMap> {
    let weight = Tensor::zeros((VOCAB, 8), DType::F32, &Device::Cpu).unwrap();
    Arc::new(SiteMap {
        base: "remembering".into(),
        aliases: vec![],
        family: "llama".into(),
        backbone: "model".into(),
        linears: vec![],
        embedding: EmbeddingSite { module: "model.embed_tokens".into(), weight: weight.into() },
        positions: None,
        frozen: vec![],
        tied: true,
        causal: true,
        layers: 1,
        hidden: 8,
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        vocab: VOCAB,
        context: 256,
        pad: None,
        head: "score".into(),
        missing_pooler: false,
        count_tokens: None,
    })
}

fn hash(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// As the engine chooses from logits.
fn choose(logits: &[f32], draw: Option<Draw>) -> Choice {
    let raw = LogSoftmax::of(logits).unwrap();
    let id = match draw {
        None => raw.best() as u32,
        Some(Draw { temperature, top_k, top_p, min_p, uniform }) => {
            let parameters = Parameters { temperature, top_k, top_p, min_p, ..Parameters::default() };
            let (mut candidates, mut weights) = (Candidates::default(), Weights::default());
            candidates.fill(logits);
            candidates.warp(&parameters, 1);
            weights.fill(&candidates.scores).unwrap();
            candidates.ids[weights.draw(uniform).unwrap()]
        }
    };
    Choice { id, logprob: raw.logprob(logits[id as usize]) }
}

impl BaseModel for Remembering {
    fn sites(&self) -> &Arc<SiteMap> {
        &self.sites
    }

    fn kv_shape(&self) -> Option<KvShape> {
        Some(KvShape { layers: 1, kv_heads: 1, head_dim: 8, bytes: 4 })
    }

    fn step_bytes(&self, _: usize, _: usize) -> usize {
        0
    }

    fn open_store(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn warm_up(&mut self, _: usize, _: usize) -> Result<Option<Warm>> {
        Ok(None)
    }

    fn draws(&self) -> bool {
        self.ability == Ability::Ahead
    }

    fn call(&mut self, adapter: &Arc<Adapter>) -> Result<Called> {
        let digest = adapter.digest;
        self.calls += 1;
        // Nobody leaves while it is on its way; one that nobody calls any more has arrived some time later.
        self.arriving.retain(|_, began| self.calls - *began < 100);
        if !self.there.contains_key(&digest) {
            let unkept = |(digest, held): &(&Digest, &Arc<()>)| {
                Arc::strong_count(held) == 1 && !self.arriving.contains_key(*digest)
            };
            let unkept = self.there.iter().find(unkept).map(|(digest, _)| *digest);
            if self.there.len() == self.room && unkept.map(|unkept| self.there.remove(&unkept)).is_none() {
                return Ok(Called::NoRoom);
            }
            self.there.insert(digest, Arc::default());
            self.arriving.insert(digest, self.calls);
            return Ok(Called::Coming);
        }
        self.arriving.remove(&digest);
        Ok(Called::Here(Held(Some(self.there[&digest].clone()))))
    }

    fn copy_blocks(&mut self, copies: &[(BlockId, BlockId)]) -> Result<()> {
        self.tasks.push_back(Task::Copy(copies.to_vec()));
        Ok(())
    }

    fn write_prefix(&mut self, adapter: &Arc<Adapter>, blocks: &[BlockId], from: usize) -> Result<()> {
        self.tasks.push_back(Task::Prefix(adapter.digest, adapter.prefix_len(), blocks.to_vec(), from));
        Ok(())
    }

    fn follows(&self, adapter: Option<&Adapter>) -> bool {
        self.ability == Ability::Ahead && adapter.is_none_or(|adapter| adapter.digest != self.stays)
    }

    fn advance(&mut self, _: &mut Pass) -> candle_core::Result<()> {
        candle_core::bail!("it learns nothing")
    }

    fn begin(&mut self, batch: Batch) -> Result<()> {
        self.begun += 1;
        self.goes_wrong(self.faults.begin, self.begun)?;
        let under_way = self.under_way();
        assert!(under_way.len() <= usize::from(self.follows(None)), "a step too far ahead");
        let overlaps = |row: &Row| match row.output {
            Output::Nothing | Output::Choice => true,
            Output::Scores => self.follows(row.adapter.as_deref()),
            Output::Logits => false,
        };
        assert!(under_way.iter().all(|step| step.rows.iter().all(overlaps)), "a step that has to be finished first");
        let choices = under_way.first().map_or(0, |step| step.rows_that_want(Output::Choice).count());
        for row in &batch.rows {
            assert!(row.follows.is_none_or(|choice| choice < choices && row.tokens.len() == 1), "no such choice");
            assert!(row.follows.is_none() || self.follows(row.adapter.as_deref()), "it cannot follow");
            let kept = |adapter: &Arc<Adapter>| {
                let held = self.there.get(&adapter.digest).is_some_and(|held| Arc::strong_count(held) > 1);
                held && !self.arriving.contains_key(&adapter.digest)
            };
            assert!(row.adapter.as_ref().is_none_or(kept), "an adapter that is not on the device, or may leave it");
        }
        self.tasks.push_back(Task::Step(batch));
        Ok(())
    }

    fn finish(&mut self) -> Result<Outputs> {
        while let Some(task) = self.tasks.pop_front() {
            match task {
                Task::Copy(copies) => {
                    for ((from, to), at) in
                        copies.into_iter().flat_map(|copy| (0..BLOCK_TOKENS).map(move |at| (copy, at)))
                    {
                        let content = self.store.get(&(from, at)).copied();
                        content.map(|content| self.store.insert((to, at), content));
                    }
                }
                Task::Prefix(digest, count, blocks, from) => {
                    (from..count).for_each(|at| self.put(&blocks, at, (digest, "prefix")));
                }
                Task::Step(batch) => {
                    self.finished += 1;
                    let outputs = self.compute(&batch);
                    self.goes_wrong(self.faults.finish, self.finished)?;
                    return outputs;
                }
            }
        }
        candle_core::bail!("no step has begun")
    }
}
