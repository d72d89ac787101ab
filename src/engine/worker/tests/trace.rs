//! Requests that come to a worker, and what they hear.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::remembering::{Ability, Faults, Remembering, VOCAB};
use crate::adapter::{
    Adapter, Digest, GenerationDefaults, KeyValuePrefix, Kind, Lease, LeaseCount, OnDevice, TaskKind,
};
use crate::engine::beams::Beams;
use crate::engine::group::{Answer, Deadline};
use crate::engine::sample::Samples;
use crate::engine::scheduler::{Budget, Demand};
use crate::engine::{Event, Parameters};
use crate::model::Warm;
use crate::text::Tokenizer;

use super::super::*;

/// A request of a trace.
#[derive(Clone, Debug)]
pub struct Ask {
    pub prompt: Vec<u32>,
    pub parameters: Parameters,
    /// It asks for scores, and for no tokens.
    pub scores: bool,
    /// 0: the base. 1 is an adapter, 2 one with a prefix, 3 one whose rows cannot follow.
    pub adapter: usize,
    pub priority: i32,
    /// The turn of the worker before which it comes.
    pub comes: usize,
    /// Its client leaves once it has heard so many tokens.
    pub leaves: Option<usize>,
    /// The turn before which its client leaves, whatever it has heard.
    pub gone: Option<usize>,
    pub timeout: Option<Duration>,
}

/// How a trace is run.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub ability: Ability,
    pub faults: Faults,
    pub budget: Budget,
    pub blocks: usize,
    /// Adapters that fit on the device.
    pub room: usize,
}

/// What came of a trace.
pub struct Heard {
    /// By request.
    pub events: Vec<Vec<Event>>,
    /// Blocks in which a further request could find its beginning.
    pub cached: usize,
    pub preemptions: u64,
    /// Steps that began before the one before was over.
    pub ahead: usize,
}

struct Client {
    ask: Ask,
    events: Option<UnboundedReceiver<Event>>,
}

impl Client {
    /// Takes what it was sent; leaves when it has heard enough.
    fn listen(&mut self, heard: &mut Vec<Event>) {
        let Some(events) = &mut self.events else { return };
        while let Ok(event) = events.try_recv() {
            heard.push(event);
            if self.ask.leaves.is_some_and(|leaves| tokens(heard) >= leaves) {
                self.events = None;
                return;
            }
        }
    }
}

/// Tokens heard so far.
pub fn tokens(heard: &[Event]) -> usize {
    heard.iter().filter(|event| matches!(event, Event::Token { .. })).count()
}

/// The adapters that requests ask for.
fn adapters() -> Vec<Arc<Adapter>> {
    let adapter = |number: u8| Adapter {
        digest: digest(number),
        base: "remembering".into(),
        kind: Kind::Lora,
        task: TaskKind::Generate,
        rank: 0,
        patches: vec![],
        embedding: None,
        positions: None,
        virtual_tokens: None,
        prefix: (number == 2).then(|| KeyValuePrefix { keys: vec![], values: vec![], count: 21 }),
        head: None,
        prompt_format: None,
        generation: GenerationDefaults::default(),
        description: None,
        on_device: OnDevice::default(),
    };
    (1..=3).map(|number| Arc::new(adapter(number))).collect()
}

fn digest(adapter: u8) -> Digest {
    Digest::of(&[adapter])
}

impl Ask {
    fn demand(&self, adapter: Option<&Lease>) -> Demand {
        let Parameters { num_beams, num_return_sequences, max_new_tokens, .. } = self.parameters;
        let (answer, width) = match self.scores {
            true => (0, 1),
            false => (max_new_tokens, num_beams.max(num_return_sequences)),
        };
        Demand {
            prefix: adapter.map_or(0, |adapter| adapter.prefix_len()),
            prompt: self.prompt.len(),
            answer,
            width,
            cached: true,
            priority: self.priority,
        }
    }
}

/// Runs a trace to its end; requests that an empty engine could not meet hear nothing.
pub fn run(asks: &[Ask], setting: Setting) -> Heard {
    let Setting { ability, faults, budget, blocks, room } = setting;
    let (adapters, leases) = (adapters(), LeaseCount::default());
    let tokenizer = Arc::new(Tokenizer::bytes());
    let (sender, receiver) = channel();
    // So fast that prompts get all there is, whatever the clock says.
    let pace = Pace::new(Some(Warm { tokens: 8192, took: Duration::from_micros(8) }));
    let model = Box::new(Remembering::new(ability, faults, digest(3), room));
    let scheduler = Scheduler::new(budget, blocks);
    let mut worker = Worker::new(model, pace, scheduler, receiver, Arc::default(), Arc::default());
    let mut clients: Vec<Client> = asks.iter().map(|ask| Client { ask: ask.clone(), events: None }).collect();
    let mut heard: Vec<Vec<Event>> = vec![vec![]; asks.len()];
    let (mut coming, mut ahead) = (asks.len(), 0);
    for turn in 0.. {
        assert!(turn < 20_000, "somebody starves");
        let mut came = false;
        for client in clients.iter_mut().filter(|client| client.ask.comes == turn) {
            coming -= 1;
            let ask = &client.ask;
            let lease = ask.adapter.checked_sub(1).map(|at| Lease::new(adapters[at].clone(), leases.clone()));
            let demand = ask.demand(lease.as_ref());
            if demand.blocks() <= blocks && demand.width <= budget.running {
                client.events = Some(submit(&sender, ask, lease, demand, &tokenizer));
                came = true;
            }
        }
        clients.iter_mut().filter(|client| client.ask.gone == Some(turn)).for_each(|client| client.events = None);
        let idle = worker.groups.is_empty() && worker.flights.is_empty();
        if idle && !came {
            if coming == 0 {
                break;
            }
            continue;
        }
        assert!(worker.listen());
        let under_way = !worker.flights.is_empty();
        worker.go_on();
        ahead += usize::from(under_way && !worker.flights.is_empty());
        clients.iter_mut().zip(&mut heard).for_each(|(client, heard)| client.listen(heard));
    }
    let pool = worker.scheduler.pool();
    assert_eq!(pool.available(), pool.total(), "blocks are conserved");
    assert_eq!((worker.scheduler.waiting(), worker.scheduler.running(), leases.get()), (0, 0, 0));
    Heard { events: heard, cached: pool.cached(), preemptions: worker.scheduler.preemptions(), ahead }
}

fn submit(
    sender: &Sender<Command>,
    ask: &Ask,
    lease: Option<Lease>,
    demand: Demand,
    tokenizer: &Arc<Tokenizer>,
) -> UnboundedReceiver<Event> {
    let (events, receiver) = unbounded_channel();
    let (parameters, seed) = (ask.parameters.clone(), ask.parameters.seed.unwrap_or(0));
    let answer = match parameters.num_beams {
        _ if ask.scores => Answer::Scores,
        0 | 1 => Answer::Samples(Box::new(Samples::new(parameters, &ask.prompt, seed, tokenizer))),
        _ => Answer::Beams(Box::new(Beams::new(parameters, &ask.prompt, seed, tokenizer))),
    };
    let deadline = ask.timeout.map(|timeout| Deadline { at: Instant::now() + timeout, timeout });
    let group = Group::new(ask.prompt.clone(), VOCAB, lease, answer, demand, deadline, events);
    sender.send(Command::Submit(Box::new(group))).unwrap();
    receiver
}
