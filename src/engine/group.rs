//! A request in the engine: its prompt, its answer so far, and the client that listens.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::adapter::Lease;

use super::beams::Beams;
use super::sample::{Samples, Stepped};
use super::sampler::{Sampler, SamplerError};
use super::scheduler::Demand;
use super::{EngineError, Event, Usage};

/// One request, from admission to its last event. Dropping it returns the adapter's lease.
pub struct Group {
    pub prompt: Vec<u32>,
    pub adapter: Option<Lease>,
    pub answer: Answer,
    pub demand: Demand,
    pub deadline: Option<Deadline>,
    /// Prompt tokens that are not virtual.
    pub prompt_tokens: usize,
    events: UnboundedSender<Event>,
}

/// When a client stops waiting.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    pub at: Instant,
    pub timeout: Duration,
}

/// How the answer comes about.
pub enum Answer {
    /// The scores of a head.
    Scores,
    Samples(Box<Samples>),
    Beams(Box<Beams>),
}

impl Group {
    /// A request that was just admitted.
    pub fn new(
        prompt: Vec<u32>,
        vocab: usize,
        adapter: Option<Lease>,
        answer: Answer,
        demand: Demand,
        deadline: Option<Deadline>,
        events: UnboundedSender<Event>,
    ) -> Self {
        let prompt_tokens = prompt.iter().filter(|&&id| (id as usize) < vocab).count();
        Self { prompt, adapter, answer, demand, deadline, prompt_tokens, events }
    }

    /// Whether nobody listens any more.
    pub fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// The tokens of a row: a piece of the prompt, or the branch's last token.
    pub fn tokens(&self, branch: usize, start: usize, count: usize) -> Vec<u32> {
        let from = start - self.demand.prefix;
        if from < self.prompt.len() {
            return self.prompt[from..from + count].to_vec();
        }
        match &self.answer {
            Answer::Samples(samples) => vec![samples.next_token(branch)],
            Answer::Beams(beams) => vec![beams.next_token(branch)],
            Answer::Scores => vec![],
        }
    }

    /// Takes the logits of all branches; answers which branches go on (none: the request is done).
    pub fn step(&mut self, logits: &[&[f32]], sampler: &mut Sampler) -> Result<Vec<usize>, SamplerError> {
        let Stepped { parents, events } = match &mut self.answer {
            Answer::Samples(samples) => samples.step(logits, sampler)?,
            Answer::Beams(beams) => beams.step(logits)?,
            Answer::Scores => Stepped { parents: vec![], events: vec![] },
        };
        for event in events {
            self.send(event);
        }
        if parents.is_empty() {
            self.done();
        }
        Ok(parents)
    }

    /// Takes the scores of the head: the request is done.
    pub fn score(&mut self, scores: Vec<f32>) {
        if scores.iter().any(|score| !score.is_finite()) {
            return self.fail(EngineError::Sampling("the head's scores are not finite numbers".into()));
        }
        self.send(Event::Scores(scores));
        self.done();
    }

    fn done(&mut self) {
        let completion_tokens = match &self.answer {
            Answer::Samples(samples) => samples.chosen,
            Answer::Beams(beams) => beams.chosen,
            Answer::Scores => 0,
        };
        self.send(Event::Done(Usage { prompt_tokens: self.prompt_tokens, completion_tokens, cached_tokens: 0 }));
    }

    /// Tells the client that nothing more will come.
    pub fn fail(&self, error: EngineError) {
        self.send(Event::Failed(error));
    }

    fn send(&self, event: Event) {
        // A client that left is noticed by `is_abandoned` before the next step.
        let _ = self.events.send(event);
    }
}
