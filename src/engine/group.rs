//! A request in the engine: its prompt, its answer so far, and the client that listens.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::adapter::Lease;
use crate::model::{Draw, Held, Output};

use super::beams::Beams;
use super::sample::{Samples, Stepped};
use super::sampler::{NextToken, Sampler, SamplerError};
use super::scheduler::Demand;
use super::{EngineError, Event, Usage};

/// One request, from admission to its last event. Dropping it returns the adapter's lease.
pub struct Group {
    /// Until the scheduler has it.
    pub prompt: Vec<u32>,
    pub adapter: Option<Lease>,
    /// Keeps the adapter on the device, once it runs.
    pub held: Option<Held>,
    /// When its adapter first found no room on the device.
    pub refused: Option<Instant>,
    pub answer: Answer,
    pub demand: Demand,
    pub deadline: Option<Deadline>,
    /// Where virtual tokens stand in the prompt, in order.
    virtual_tokens: Vec<usize>,
    /// Prompt tokens that are not virtual and were found in the cache.
    cached_tokens: usize,
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
        let ids = prompt.iter().enumerate();
        let virtual_tokens: Vec<usize> = ids.filter(|&(_, &id)| id as usize >= vocab).map(|(at, _)| at).collect();
        Self {
            prompt,
            virtual_tokens,
            adapter,
            held: None,
            refused: None,
            answer,
            demand,
            deadline,
            cached_tokens: 0,
            events,
        }
    }

    /// Whether nobody listens any more.
    pub fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// The first `positions` of the sequence, prefix included, were found in the cache.
    pub fn found(&mut self, positions: usize) {
        let tokens = positions.saturating_sub(self.demand.prefix);
        self.cached_tokens = tokens - self.virtual_tokens.partition_point(|&at| at < tokens);
    }

    /// What it wants, after the last token of a branch, of a model that draws or does not.
    pub fn wants(&self, draws: bool) -> Output {
        match &self.answer {
            Answer::Scores => Output::Scores,
            Answer::Samples(samples) if samples.leave_the_choice(draws) => Output::Choice,
            Answer::Samples(_) | Answer::Beams(_) => Output::Logits,
        }
    }

    /// How the model draws a branch's choice, if it does not take the likeliest.
    pub fn draw(&mut self, branch: usize) -> Option<Draw> {
        match &mut self.answer {
            Answer::Samples(samples) => samples.draw(branch),
            Answer::Scores | Answer::Beams(_) => None,
        }
    }

    /// Takes what the model says of all branches; answers which go on, and with which token (none: the request is done).
    pub fn step(&mut self, next: &[NextToken<'_>], sampler: &mut Sampler) -> Result<Vec<(usize, u32)>, SamplerError> {
        let Stepped { grown, events } = match &mut self.answer {
            Answer::Samples(samples) => samples.step(next, sampler)?,
            Answer::Beams(beams) => {
                let logits = next.iter().filter_map(|next| match next {
                    NextToken::Logits(logits) => Some(*logits),
                    NextToken::Choice(_) => None,
                });
                beams.step(&logits.collect::<Vec<_>>())?
            }
            Answer::Scores => Stepped { grown: vec![], events: vec![] },
        };
        for event in events {
            self.send(event);
        }
        if grown.is_empty() {
            self.done();
        }
        Ok(grown)
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
        let prompt_tokens = self.demand.prompt - self.virtual_tokens.len();
        let cached_tokens = self.cached_tokens;
        self.send(Event::Done(Usage { prompt_tokens, completion_tokens, cached_tokens }));
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
