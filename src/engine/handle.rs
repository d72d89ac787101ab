//! The cheap handle through which the rest of the server talks to an engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::adapter::{Lease, SiteMap};
use crate::model::BaseModel;
use crate::text::Tokenizer;

use super::beams::Beams;
use super::group::{Answer, Deadline, Group};
use super::pace::Pace;
use super::sample::Samples;
use super::scheduler::{Budget, Demand, Scheduler};
use super::worker::{Command, Worker};
use super::{EngineError, Event, Parameters};

/// Limits of one engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Tokens computed per step.
    pub max_batch_tokens: usize,
    /// Sequences that run at once; no more than `max_batch_tokens`.
    pub max_running: usize,
    /// Requests that may wait; more are refused with [`EngineError::Overloaded`].
    pub max_waiting: usize,
    /// Bytes for keys and values.
    pub kv_bytes: usize,
    /// Engines on one device take turns through this lock.
    pub turn: Arc<Mutex<()>>,
}

/// What is to be computed.
#[derive(Clone, Debug)]
pub enum Work {
    Generate(Parameters),
    /// The adapter's head.
    Classify,
}

/// One input on its way into the engine.
pub struct Request {
    /// Token ids; `vocab + i` is virtual token `i` of the adapter. Leading virtual tokens are part of it.
    pub prompt: Vec<u32>,
    /// The adapter to apply, pinned until the request's last step is over.
    pub adapter: Option<Lease>,
    pub work: Work,
    /// Higher runs earlier.
    pub priority: i32,
    /// How long the client waits.
    pub timeout: Option<Duration>,
}

/// Counts for /metrics and health.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineStats {
    /// Sequences that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Blocks that no sequence uses, those included that the prefix cache keeps until they are needed.
    pub free_blocks: usize,
    /// Blocks in which a further sequence could find its beginning.
    pub cached_blocks: usize,
    pub total_blocks: usize,
    pub steps: u64,
    /// How often a request gave its blocks back to others, to compute its tokens once more later.
    pub preemptions: u64,
}

/// The events of one request; dropping it cancels the request within one step.
pub struct EventStream {
    events: mpsc::UnboundedReceiver<Event>,
}

impl EventStream {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

/// A handle to a running engine; clones share it. The thread ends when it is drained or the last handle is dropped.
#[derive(Clone)]
pub struct Engine {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    sites: Arc<SiteMap>,
    tokenizer: Arc<Tokenizer>,
    cached: bool,
    max_running: usize,
    max_waiting: usize,
    stopped: watch::Receiver<bool>,
}

/// What the thread tells its handles.
#[derive(Default)]
pub struct Shared {
    draining: AtomicBool,
    /// Requests inside, waiting or running.
    inside: AtomicUsize,
    running: AtomicUsize,
    waiting: AtomicUsize,
    free_blocks: AtomicUsize,
    cached_blocks: AtomicUsize,
    total_blocks: AtomicUsize,
    steps: AtomicU64,
    preemptions: AtomicU64,
}

impl Shared {
    /// A request left.
    pub(super) fn left(&self) {
        self.inside.fetch_sub(1, Ordering::AcqRel);
    }

    /// Who runs and waits now.
    pub(super) fn note(&self, scheduler: &Scheduler) {
        self.running.store(scheduler.running(), Ordering::Relaxed);
        self.waiting.store(scheduler.waiting(), Ordering::Relaxed);
        self.free_blocks.store(scheduler.pool().available(), Ordering::Relaxed);
        self.cached_blocks.store(scheduler.pool().cached(), Ordering::Relaxed);
        self.preemptions.store(scheduler.preemptions(), Ordering::Relaxed);
    }

    /// A step begins.
    pub(super) fn count_step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

impl Engine {
    /// Starts the engine's thread.
    pub fn start(
        mut model: Box<dyn BaseModel>,
        tokenizer: Arc<Tokenizer>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        let sites = model.sites().clone();
        let failed = |e: &dyn std::fmt::Display| EngineError::Step(e.to_string());
        let cached = model.kv_shape().is_some();
        let blocks = model.kv_shape().map_or(0, |shape| {
            // Beyond every running sequence at full length, blocks would serve the prefix cache alone.
            let useful = options.max_running * sites.context.div_ceil(crate::model::BLOCK_TOKENS);
            (options.kv_bytes / shape.block_bytes()).min(useful)
        });
        model.open_store(blocks).map_err(|e| failed(&e))?;
        let warm = model.warm_up(options.max_batch_tokens, options.max_running).map_err(|e| failed(&e))?;
        let budget = Budget { tokens: options.max_batch_tokens, running: options.max_running };
        let shared = Arc::new(Shared::default());
        shared.total_blocks.store(blocks, Ordering::Relaxed);
        shared.free_blocks.store(blocks, Ordering::Relaxed);
        let (commands, receiver) = channel();
        let (stopping, stopped) = watch::channel(false);
        let worker =
            Worker::new(model, Pace::new(warm), Scheduler::new(budget, blocks), receiver, shared.clone(), options.turn);
        std::thread::Builder::new()
            .name(format!("engine-{}", sites.base))
            .spawn(move || {
                worker.run();
                let _ = stopping.send(true);
            })
            .map_err(|e| failed(&e))?;
        let (max_running, max_waiting) = (options.max_running, options.max_waiting);
        Ok(Self { commands, shared, sites, tokenizer, cached, max_running, max_waiting, stopped })
    }

    /// Queues a request. Refuses what can never run (too long, too large) and what finds the queue full.
    pub fn submit(&self, mut request: Request) -> Result<EventStream, EngineError> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(EngineError::Draining);
        }
        if matches!(request.work, Work::Classify) && self.cached {
            self.end_at_content(&mut request.prompt);
        }
        let demand = self.demand(&request)?;
        self.enter()?;
        let (sender, events) = mpsc::unbounded_channel();
        let deadline = request.timeout.map(|timeout| Deadline { at: Instant::now() + timeout, timeout });
        let answer = match request.work {
            Work::Classify => Answer::Scores,
            Work::Generate(parameters) => {
                let seed = parameters.seed.unwrap_or_else(rand::random);
                match parameters.num_beams {
                    0 | 1 => {
                        Answer::Samples(Box::new(Samples::new(parameters, &request.prompt, seed, &self.tokenizer)))
                    }
                    _ => Answer::Beams(Box::new(Beams::new(parameters, &request.prompt, seed, &self.tokenizer))),
                }
            }
        };
        let group = Group::new(request.prompt, self.sites.vocab, request.adapter, answer, demand, deadline, sender);
        if self.commands.send(Command::Submit(Box::new(group))).is_err() {
            self.shared.left();
            return Err(EngineError::Draining);
        }
        Ok(EventStream { events })
    }

    /// A decoder's head reads the last token that is not padding (transformers' `*ForSequenceClassification`);
    /// among virtual tokens, where transformers sees embeddings only, the last of all.
    fn end_at_content(&self, prompt: &mut Vec<u32>) {
        if prompt.iter().any(|&id| id as usize >= self.sites.vocab) {
            return;
        }
        let content = prompt.iter().rposition(|&id| Some(id) != self.sites.pad).unwrap_or(0);
        prompt.truncate(content + 1);
    }

    /// What a request will need; refuses what no empty engine could meet.
    fn demand(&self, request: &Request) -> Result<Demand, EngineError> {
        let (answer, width) = match &request.work {
            Work::Classify => (0, 1),
            Work::Generate(p) => (p.max_new_tokens, p.num_beams.max(p.num_return_sequences).max(1)),
        };
        let prefix = request.adapter.as_ref().map_or(0, |adapter| adapter.prefix_len());
        let (prompt, context) = (request.prompt.len(), self.sites.context);
        let demand = Demand { prefix, prompt, answer, width, cached: self.cached, priority: request.priority };
        if prompt == 0 {
            return Err(EngineError::Invalid("the prompt has no tokens".into()));
        }
        let known = self.sites.vocab
            + request.adapter.as_ref().and_then(|a| a.virtual_tokens.as_ref()).map_or(0, |v| v.count());
        if let Some(id) = request.prompt.iter().find(|&&id| id as usize >= known) {
            return Err(EngineError::Invalid(format!(
                "the prompt holds token id {id}, the base and its adapter know {known}"
            )));
        }
        let total = prefix.saturating_add(prompt).saturating_add(answer);
        if total > context {
            return Err(EngineError::Invalid(format!(
                "the prompt has {prompt} tokens, its prefix {prefix} and max_new_tokens is {answer}: {total} together, the base's context is {context}"
            )));
        }
        if width > self.max_running {
            return Err(EngineError::Invalid(format!(
                "{width} sequences were asked for, at most {} run at once",
                self.max_running
            )));
        }
        let total = self.shared.total_blocks.load(Ordering::Relaxed);
        if demand.blocks() > total {
            return Err(EngineError::Invalid(format!(
                "the request needs {} key-value blocks, the server has {total}; ask for fewer tokens or sequences",
                demand.blocks()
            )));
        }
        Ok(demand)
    }

    /// Counts a request in, unless too many are inside.
    fn enter(&self) -> Result<(), EngineError> {
        let overloaded = |waiting| EngineError::Overloaded { waiting, limit: self.max_waiting };
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        if waiting > self.max_waiting {
            return Err(overloaded(waiting));
        }
        let limit = self.max_waiting + self.max_running;
        let entered = self
            .shared
            .inside
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |inside| (inside < limit).then_some(inside + 1));
        match entered {
            Ok(_) => Ok(()),
            Err(inside) => Err(overloaded(inside - self.max_running)),
        }
    }

    /// The shape of its base.
    pub fn sites(&self) -> &Arc<SiteMap> {
        &self.sites
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// A moment's counts.
    pub fn stats(&self) -> EngineStats {
        let s = &self.shared;
        EngineStats {
            running: s.running.load(Ordering::Relaxed),
            waiting: s.waiting.load(Ordering::Relaxed),
            free_blocks: s.free_blocks.load(Ordering::Relaxed),
            cached_blocks: s.cached_blocks.load(Ordering::Relaxed),
            total_blocks: s.total_blocks.load(Ordering::Relaxed),
            steps: s.steps.load(Ordering::Relaxed),
            preemptions: s.preemptions.load(Ordering::Relaxed),
        }
    }

    /// Whether it takes requests: it is not draining, and its thread lives.
    pub fn takes_requests(&self) -> bool {
        !self.shared.draining.load(Ordering::Acquire) && self.stopped.has_changed().is_ok()
    }

    /// Takes no new requests, lets those inside end, and stops the thread.
    pub async fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        if self.commands.send(Command::Drain).is_ok() {
            let _ = self.stopped.clone().wait_for(|stopped| *stopped).await;
        }
    }
}
