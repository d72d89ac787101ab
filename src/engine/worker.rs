//! The engine's thread: takes requests, runs steps, hands out what came of them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::device::{Activations, compute, with_f32};
use crate::model::{self, BaseModel, Batch, Output, Outputs, RowSpec};
use crate::profile::{self, Part};

use super::EngineError;
use super::group::Group;
use super::handle::Shared;
use super::pace::Pace;
use super::sampler::{NextToken, Sampler};
use super::scheduler::{Plan, PlannedRow, Scheduler, UnitId};

/// How long is waited for adapters before somebody looks again, when nothing else runs.
const NOTHING_ELSE_TO_DO: Duration = Duration::from_micros(50);
/// Where steps are short, who comes so soon after another shares its first step instead of waiting for it to end.
const TOGETHER: Duration = Duration::from_micros(100);
/// However many follow each other so, nobody waits longer.
const TOGETHER_AT_MOST: Duration = Duration::from_millis(1);

/// What the handle sends.
pub enum Command {
    Submit(Box<Group>),
    /// Stop once nothing runs or waits.
    Drain,
}

/// Owns everything that computes.
pub struct Worker {
    model: Box<dyn BaseModel>,
    scheduler: Scheduler,
    pace: Pace,
    groups: BTreeMap<UnitId, Group>,
    /// Those of them whose adapters are on their way to the device; the scheduler does not know them yet.
    arriving: Vec<UnitId>,
    sampler: Sampler,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    /// Engines on one device take turns.
    turn: Arc<Mutex<()>>,
    next: u64,
    draining: bool,
}

impl Worker {
    /// A worker with nothing to do yet.
    pub fn new(
        model: Box<dyn BaseModel>,
        pace: Pace,
        scheduler: Scheduler,
        commands: Receiver<Command>,
        shared: Arc<Shared>,
        turn: Arc<Mutex<()>>,
    ) -> Self {
        let (groups, arriving, sampler) = (BTreeMap::new(), Vec::new(), Sampler::new());
        Self { model, scheduler, pace, groups, arriving, sampler, commands, shared, turn, next: 0, draining: false }
    }

    /// Runs until it is drained or all handles are gone.
    pub fn run(mut self) {
        while self.listen() {
            self.drop_the_unwanted();
            // A panic in our own bookkeeping fails what is inside; the engine starts over and lives on.
            let gone_on = catch_unwind(AssertUnwindSafe(|| {
                self.let_in();
                if self.groups.len() > self.arriving.len() {
                    self.step();
                }
            }));
            if gone_on.is_err() {
                self.start_over();
            }
            self.note();
        }
    }

    /// Takes what was sent; waits if there is nothing else to do. Answers whether to go on.
    fn listen(&mut self) -> bool {
        // Since when an engine that was idle gathers those who come together.
        let mut gathers = None;
        loop {
            let command = match self.groups.is_empty() {
                true if self.draining => return false,
                true => match self.commands.recv() {
                    Ok(command) => command,
                    Err(_) => return false,
                },
                false => match self.command_sent(gathers) {
                    Some(command) => command,
                    None => return true,
                },
            };
            match command {
                Command::Drain => self.draining = true,
                Command::Submit(group) => {
                    if self.groups.is_empty() && self.pace.is_of_a_warm_model() {
                        gathers = Some(Instant::now());
                    }
                    let id = UnitId(self.next);
                    self.next += 1;
                    self.groups.insert(id, *group);
                    self.arriving.push(id);
                }
            }
        }
    }

    /// What else was sent; an engine that gathers waits a moment for it.
    fn command_sent(&self, gathers: Option<Instant>) -> Option<Command> {
        let left = gathers.map(|since| TOGETHER_AT_MOST.saturating_sub(since.elapsed()).min(TOGETHER));
        match left.filter(|left| !left.is_zero()) {
            Some(left) => self.commands.recv_timeout(left).ok(),
            None => self.commands.try_recv().ok(),
        }
    }

    /// Gives the scheduler those whose adapters are on the device.
    fn let_in(&mut self) {
        let Self { model, groups, scheduler, shared, .. } = self;
        self.arriving.retain(|id| {
            let Some(group) = groups.get_mut(id) else { return false };
            let idle = scheduler.running() + scheduler.waiting() == 0;
            let arrived = group.adapter.as_ref().map_or(Ok(true), |lease| model.call(lease.adapter(), idle));
            match arrived {
                Ok(false) => return true,
                Ok(true) => {
                    let adapter = group.adapter.as_ref().map(|lease| lease.digest);
                    scheduler.enqueue(*id, group.demand, adapter, std::mem::take(&mut group.prompt));
                }
                Err(error) => {
                    tracing::error!(%error, "an adapter could not be brought to the device");
                    group.fail(EngineError::Step(error.to_string()));
                    groups.remove(id);
                    shared.left();
                }
            }
            false
        });
        if !self.arriving.is_empty() && self.arriving.len() == self.groups.len() {
            std::thread::sleep(NOTHING_ELSE_TO_DO);
        }
    }

    /// Ends what nobody waits for any more.
    fn drop_the_unwanted(&mut self) {
        let now = Instant::now();
        let (scheduler, shared) = (&mut self.scheduler, &self.shared);
        self.groups.retain(|&id, group| {
            let late = group.deadline.filter(|deadline| deadline.at <= now);
            if let Some(deadline) = late {
                group.fail(EngineError::Timeout(deadline.timeout.as_millis() as u64));
            }
            let keep = late.is_none() && !group.is_abandoned();
            if !keep {
                scheduler.end(id);
                shared.left();
            }
            keep
        });
    }

    fn step(&mut self) {
        let _timer = profile::time(Part::Step);
        let plan = {
            let _timer = profile::time(Part::Plan);
            let (decoding, prompts) = (self.scheduler.decoding(), self.scheduler.prompts());
            self.scheduler.plan(self.pace.prompt_tokens(decoding, prompts))
        };
        // Before anything is heard of the step: who hears an event and looks at the counts finds its request in them.
        self.shared.count_step();
        self.note();
        // The model is foreign code to the engine: whatever happens there fails this step's requests and nothing else.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.forward(&plan)));
        let outcome = match outcome {
            Ok(Ok((outputs, took))) => {
                self.pace.note(plan.decoding, plan.prompt_tokens, took);
                self.deliver(&plan, &outputs)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(candle_core::Error::Msg("the model panicked".into())),
        };
        if let Err(error) = outcome {
            tracing::error!(%error, "a step failed");
            self.scheduler.fail(&plan);
            for row in &plan.rows {
                self.end(row.unit, Some(EngineError::Step(error.to_string())));
            }
        }
    }

    fn note(&self) {
        self.shared.note(&self.scheduler, self.arriving.len());
    }

    fn start_over(&mut self) {
        tracing::error!(requests = self.groups.len(), "a step panicked outside the model");
        self.scheduler.reset();
        self.arriving.clear();
        for group in std::mem::take(&mut self.groups).into_values() {
            self.shared.left();
            group.fail(EngineError::Step("a step panicked".into()));
        }
    }

    /// What the step computed, and how long it took once it was this engine's turn.
    fn forward(&mut self, plan: &Plan) -> candle_core::Result<(StepOutputs, Duration)> {
        let (batch, order, wants) = self.prepare(plan)?;
        let _turn = self.turn.lock();
        let begun = Instant::now();
        let model = &mut self.model;
        let outputs = compute(|| model.forward(&batch))?;
        Ok((StepOutputs::new(outputs, &order, &wants), begun.elapsed()))
    }

    /// The step's rows, grouped by adapter; for each row of the batch its place in the plan; what each planned row wants.
    fn prepare(&mut self, plan: &Plan) -> candle_core::Result<(Batch, Vec<usize>, Vec<Output>)> {
        let _timer = profile::time(Part::Prepare);
        self.model.copy_blocks(&plan.copies)?;
        let mut specs = Vec::with_capacity(plan.rows.len());
        for row in &plan.rows {
            let Some(group) = self.groups.get_mut(&row.unit) else {
                candle_core::bail!("a row of a request that is gone");
            };
            if let (Some(lease), Some(from)) = (&group.adapter, row.prefix_from) {
                self.model.write_prefix(lease.adapter(), &row.blocks, from)?;
            }
            let output = wanted(row, group, self.model.draws());
            let draw = if output == Output::Choice { group.draw(row.branch) } else { None };
            specs.push(RowSpec {
                adapter: group.adapter.as_ref().map(|lease| lease.adapter().clone()),
                tokens: row.tokens.clone(),
                start: row.start,
                blocks: row.blocks.clone(),
                output,
                draw,
            });
        }
        let wants: Vec<Output> = specs.iter().map(|spec| spec.output).collect();
        let (batch, order) = Batch::group(specs);
        Ok((batch, order, wants))
    }

    /// Gives every unit what its rows produced.
    fn deliver(&mut self, plan: &Plan, outputs: &StepOutputs) -> candle_core::Result<()> {
        let _timer = profile::time(Part::Sample);
        let Some(logits) = &outputs.logits else { return self.deliver_rows(plan, outputs, &[]) };
        let vocab = logits.dims2()?.1;
        with_f32(logits, |all| {
            let rows: Vec<&[f32]> = all.chunks_exact(vocab).collect();
            self.deliver_rows(plan, outputs, &rows)
        })
    }

    fn deliver_rows(&mut self, plan: &Plan, outputs: &StepOutputs, logits: &[&[f32]]) -> candle_core::Result<()> {
        let mut at = 0;
        for unit_rows in plan.rows.chunk_by(|a, b| a.unit == b.unit) {
            let id = unit_rows[0].unit;
            let places = &outputs.places[at..at + unit_rows.len()];
            at += unit_rows.len();
            match places[0] {
                Place::Nothing => {}
                Place::Scores(index) => {
                    if let Some(group) = self.groups.get_mut(&id) {
                        group.found(self.scheduler.found(id));
                        group.score(outputs.scores[index].clone());
                    }
                    self.end(id, None);
                }
                Place::Logits(_) | Place::Choice(_) => {
                    let rows = places.iter().filter_map(|place| match place {
                        Place::Logits(index) => Some(NextToken::Logits(logits[*index])),
                        Place::Choice(index) => Some(NextToken::Choice(outputs.choices[*index])),
                        Place::Nothing | Place::Scores(_) => None,
                    });
                    self.choose(id, &rows.collect::<Vec<_>>());
                }
            }
        }
        Ok(())
    }

    fn choose(&mut self, id: UnitId, rows: &[NextToken<'_>]) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.found(self.scheduler.found(id));
        match group.step(rows, &mut self.sampler) {
            Ok(grown) if grown.is_empty() => self.end(id, None),
            Ok(grown) => self.scheduler.grow(id, &grown),
            Err(error) => self.end(id, Some(EngineError::Sampling(error.to_string()))),
        }
    }

    fn end(&mut self, id: UnitId, error: Option<EngineError>) {
        self.scheduler.end(id);
        if let Some(group) = self.groups.remove(&id) {
            self.shared.left();
            if let Some(error) = error {
                group.fail(error);
            }
        }
    }
}

fn wanted(row: &PlannedRow, group: &Group, draws: bool) -> Output {
    match row.last {
        false => Output::Nothing,
        true => group.wants(draws),
    }
}

/// Where a planned row's result is.
#[derive(Clone, Copy)]
enum Place {
    Nothing,
    Logits(usize),
    Choice(usize),
    Scores(usize),
}

/// A step's results, found by planned row.
struct StepOutputs {
    logits: Option<Activations>,
    choices: Vec<model::Choice>,
    scores: Vec<Vec<f32>>,
    places: Vec<Place>,
}

impl StepOutputs {
    /// `order` is the planned row of each batch row, `wants` what each planned row wanted.
    fn new(outputs: Outputs, order: &[usize], wants: &[Output]) -> Self {
        let mut places = vec![Place::Nothing; order.len()];
        let (mut logits, mut choices, mut scores) = (0, 0, 0);
        for &row in order {
            let (place, next): (fn(usize) -> Place, _) = match wants[row] {
                Output::Nothing => continue,
                Output::Logits => (Place::Logits, &mut logits),
                Output::Choice => (Place::Choice, &mut choices),
                Output::Scores => (Place::Scores, &mut scores),
            };
            places[row] = place(*next);
            *next += 1;
        }
        let Outputs { logits, choices, scores } = outputs;
        Self { logits, choices, scores, places }
    }
}
