//! The engine's thread: takes requests, runs steps, hands out what came of them.
//!
//! Where the model can, a step begins before it is known what the one before chose: while the device computes, the engine reads
//! and hands out those choices, and prepares what comes next. A request that turns out to have ended has then computed one token
//! more, which nobody hears of; its blocks may be taken at once, as whoever takes them writes them after that.

mod calls;
mod deliver;
mod flight;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::model::{BaseModel, Batch, Output, Outputs, RowSpec};
use crate::profile::{self, Part};

use super::EngineError;
use super::group::Group;
use super::handle::Shared;
use super::pace::Pace;
use super::sampler::Sampler;
use super::scheduler::{Plan, PlannedRow, Scheduler, UnitId};
use calls::Calls;
use flight::{Flight, Place, places};

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
    /// Steps under way, the one that ends first in front: two while the results of the first are waited for.
    flights: VecDeque<Flight>,
    /// When the last step was over.
    landed: Instant,
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
        Self {
            model,
            scheduler,
            pace,
            groups: BTreeMap::new(),
            flights: VecDeque::new(),
            landed: Instant::now(),
            sampler: Sampler::new(),
            commands,
            shared,
            turn,
            next: 0,
            draining: false,
        }
    }

    /// Runs until it is drained or all handles are gone.
    pub fn run(mut self) {
        while self.listen() {
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        self.drop_the_unwanted();
        // A panic in our own bookkeeping fails what is inside; the engine starts over and lives on.
        let gone_on = catch_unwind(AssertUnwindSafe(|| {
            if !self.groups.is_empty() || !self.flights.is_empty() {
                self.step();
            }
        }));
        if gone_on.is_err() {
            self.start_over();
        }
        self.note();
    }

    /// Takes what was sent; waits if there is nothing else to do. Answers whether to go on.
    fn listen(&mut self) -> bool {
        // Since when an engine that was idle gathers those who come together.
        let mut gathers = None;
        loop {
            let command = match self.groups.is_empty() && self.flights.is_empty() {
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
                Command::Submit(mut group) => {
                    if self.groups.is_empty() && self.pace.is_of_a_warm_model() {
                        gathers = Some(Instant::now());
                    }
                    let id = UnitId(self.next);
                    self.next += 1;
                    let adapter = group.adapter.as_ref().map(|lease| lease.digest);
                    self.scheduler.enqueue(id, group.demand, adapter, std::mem::take(&mut group.prompt));
                    self.groups.insert(id, *group);
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

    /// Ends what nobody waits for any more.
    fn drop_the_unwanted(&mut self) {
        let now = Instant::now();
        let (scheduler, flights, shared) = (&mut self.scheduler, &mut self.flights, &self.shared);
        self.groups.retain(|&id, group| {
            let late = group.deadline.filter(|deadline| deadline.at <= now);
            if let Some(deadline) = late {
                group.fail(EngineError::Timeout(deadline.timeout.as_millis() as u64));
            }
            let keep = late.is_none() && !group.is_abandoned();
            if !keep {
                scheduler.end(id);
                shared.left();
                hold(flights, group);
            }
            keep
        });
    }

    /// Begins a step, if it can be told what it computes, then sees what came of the one before. Where steps cannot overlap, and
    /// where none is under way, that is the same step.
    fn step(&mut self) {
        let _timer = profile::time(Part::Step);
        let alone = self.flights.is_empty();
        let begun = if alone || self.can_go_ahead() { self.begin() } else { Ok(()) };
        if !alone || !self.model.follows(None) {
            self.land();
        }
        if let Err(failed) = begun {
            self.fail(&failed.0, &failed.1);
        }
    }

    /// Whether the next step can begin before the one under way is over: the model chooses all that comes of that, and nobody else
    /// has to see it first. Those for whom it chooses then go on in the scheduler.
    fn can_go_ahead(&mut self) -> bool {
        let Some(Flight { plan, places, .. }) = self.flights.back() else { return false };
        let follows = |group: &Group| {
            group.demand.width == 1 && self.model.follows(group.adapter.as_ref().map(|lease| &**lease.adapter()))
        };
        let mut each = plan.rows.iter().zip(places);
        let all_follow = each.all(|(row, place)| match place {
            Place::Nothing => true,
            Place::Choice(_) => self.groups.get(&row.unit).is_none_or(follows),
            // Of one that left nothing is known any more, and its scores may have to be waited for.
            Place::Scores(_) => self.groups.get(&row.unit).is_some_and(follows),
            Place::Logits(_) => false,
        });
        self.model.follows(None) && all_follow && self.scheduler.advance()
    }

    /// Plans a step and begins it.
    fn begin(&mut self) -> Result<(), Box<(Plan, candle_core::Error)>> {
        let plan = {
            let _timer = profile::time(Part::Plan);
            let (decoding, prompts) = (self.scheduler.decoding(), self.scheduler.prompts());
            let tokens = self.pace.prompt_tokens(decoding, prompts);
            let Self { scheduler, model, groups, .. } = self;
            let mut calls = Calls::default();
            let plan = scheduler
                .plan(tokens, |id| groups.get_mut(&id).is_some_and(|group| calls.call(&mut **model, id, group)));
            for (id, error) in calls.failed {
                tracing::error!(%error, "an adapter could not be brought to the device");
                self.end(id, Some(EngineError::Step(error.to_string())));
            }
            plan
        };
        if plan.rows.is_empty() {
            if self.flights.is_empty() && !self.groups.is_empty() {
                std::thread::sleep(NOTHING_ELSE_TO_DO);
            }
            return Ok(());
        }
        // Before anything is heard of the step: who hears an event and looks at the counts finds its request in them.
        self.shared.count_step();
        self.note();
        // The model is foreign code to the engine: whatever happens there fails this step's requests and nothing else.
        match catch_unwind(AssertUnwindSafe(|| self.launch(&plan))) {
            Ok(Ok((places, began))) => {
                self.flights.push_back(Flight { plan, places, began, leases: vec![] });
                Ok(())
            }
            Ok(Err(error)) => Err(Box::new((plan, error))),
            Err(_) => Err(Box::new((plan, panicked()))),
        }
    }

    /// Waits for the step that began first, and hands out what came of it.
    fn land(&mut self) {
        let Some(flight) = self.flights.pop_front() else { return };
        let outcome = match self.finish() {
            Ok(outputs) => {
                let now = Instant::now();
                let took = now - flight.began.max(self.landed);
                self.landed = now;
                self.scheduler.carried_out();
                self.pace.note(flight.plan.decoding, flight.plan.prompt_tokens, took);
                self.deliver(&flight, &outputs)
            }
            Err(error) => Err(error),
        };
        let Err(error) = outcome else { return };
        self.fail(&flight.plan, &error);
        // It went on from what is not there.
        while let Some(next) = self.flights.pop_front() {
            let _ = self.finish();
            self.fail(&next.plan, &error);
        }
    }

    /// Ends the requests of a step that failed.
    fn fail(&mut self, plan: &Plan, error: &candle_core::Error) {
        tracing::error!(%error, "a step failed");
        self.scheduler.fail(plan);
        for row in &plan.rows {
            self.end(row.unit, Some(EngineError::Step(error.to_string())));
        }
    }

    fn note(&self) {
        self.shared.note(&self.scheduler);
    }

    fn start_over(&mut self) {
        tracing::error!(requests = self.groups.len(), "a step panicked outside the model");
        while self.flights.pop_front().is_some() {
            let _ = self.finish();
        }
        self.scheduler.reset();
        for group in std::mem::take(&mut self.groups).into_values() {
            self.shared.left();
            group.fail(EngineError::Step("a step panicked".into()));
        }
    }

    /// Has the model begin a step, once it is this engine's turn. Answers where results will be, and when it began.
    fn launch(&mut self, plan: &Plan) -> candle_core::Result<(Vec<Place>, Instant)> {
        let (batch, places) = self.prepare(plan)?;
        let _turn = self.turn.lock();
        let began = Instant::now();
        self.model.begin(batch)?;
        Ok((places, began))
    }

    /// What came of the step that the model began first.
    fn finish(&mut self) -> candle_core::Result<Outputs> {
        let (turn, model) = (&self.turn, &mut self.model);
        let finished = catch_unwind(AssertUnwindSafe(|| {
            let _turn = turn.lock();
            model.finish()
        }));
        finished.unwrap_or_else(|_| Err(panicked()))
    }

    /// The step's rows, grouped by adapter, and where the result of each planned row will be.
    fn prepare(&mut self, plan: &Plan) -> candle_core::Result<(Batch, Vec<Place>)> {
        let _timer = profile::time(Part::Prepare);
        self.model.copy_blocks(&plan.copies)?;
        let choices = self.flights.back().map_or_else(HashMap::new, Flight::choices);
        let mut specs = Vec::with_capacity(plan.rows.len());
        for row in &plan.rows {
            let Some(group) = self.groups.get_mut(&row.unit) else {
                candle_core::bail!("a row of a request that is gone");
            };
            if let (Some(lease), Some(from)) = (&group.adapter, row.prefix_from) {
                self.model.write_prefix(lease.adapter(), &row.blocks, from)?;
            }
            let follows = row.follows.then(|| choices.get(&row.unit).copied());
            if follows == Some(None) {
                candle_core::bail!("a row that follows nothing");
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
                follows: follows.flatten(),
            });
        }
        let wants: Vec<Output> = specs.iter().map(|spec| spec.output).collect();
        let (batch, order) = Batch::group(specs);
        Ok((batch, places(&order, &wants)))
    }

    fn end(&mut self, id: UnitId, error: Option<EngineError>) {
        self.scheduler.end(id);
        if let Some(mut group) = self.groups.remove(&id) {
            self.shared.left();
            if let Some(error) = error {
                group.fail(error);
            }
            hold(&mut self.flights, &mut group);
        }
    }
}

/// Keeps the adapter of a request that is over until the step under way is, in which it may take part.
fn hold(flights: &mut VecDeque<Flight>, group: &mut Group) {
    if let Some(flight) = flights.back_mut() {
        flight.leases.extend(group.adapter.take());
    }
}

fn panicked() -> candle_core::Error {
    candle_core::Error::Msg("the model panicked".into())
}

fn wanted(row: &PlannedRow, group: &Group, draws: bool) -> Output {
    match row.last {
        false => Output::Nothing,
        true => group.wants(draws),
    }
}

#[cfg(test)]
mod tests;
