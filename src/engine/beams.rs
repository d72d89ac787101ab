//! The beams of one request: search, texts and tokens.

use std::sync::Arc;

use crate::text::Tokenizer;

use super::beam::{BeamSearch, Hypothesis};
use super::sample::{Stepped, named};
use super::sampler::SamplerError;
use super::stop::StopMatcher;
use super::{Event, FinishReason, Parameters};

/// A beam search under way, and what its client will hear at the end.
pub struct Beams {
    /// Absent once the search is over.
    search: Option<BeamSearch>,
    tokenizer: Arc<Tokenizer>,
    stop: Vec<String>,
    /// The token each running beam computes next.
    next: Vec<u32>,
    /// Tokens of the answers, end-of-text included.
    pub chosen: usize,
}

impl Beams {
    /// A search from the end of a prompt.
    pub fn new(parameters: Parameters, prompt: &[u32], seed: u64, tokenizer: &Arc<Tokenizer>) -> Self {
        Self {
            search: Some(BeamSearch::new(&parameters, prompt, seed)),
            tokenizer: tokenizer.clone(),
            stop: parameters.stop.into_iter().filter(|stop| !stop.is_empty()).collect(),
            next: vec![],
            chosen: 0,
        }
    }

    /// The token each branch computes next.
    pub fn next_token(&self, branch: usize) -> u32 {
        self.next[branch]
    }

    /// Takes a row of logits `[vocab]` for each running beam.
    pub fn step(&mut self, logits: &[&[f32]]) -> Result<Stepped, SamplerError> {
        let over = Stepped { parents: vec![], events: vec![] };
        let Some(mut search) = self.search.take() else { return Ok(over) };
        let (stop, tokenizer) = (&self.stop, &self.tokenizer);
        let stops = |answer: &[u32]| !stop.is_empty() && StopMatcher::new(stop).push(&tokenizer.decode(answer)).stopped;
        match search.step(logits, stops)? {
            Some(step) => {
                self.search = Some(search);
                self.next = step.tokens;
                Ok(Stepped { parents: step.parents, events: vec![] })
            }
            None => {
                let hypotheses = search.into_hypotheses().into_iter().enumerate();
                let events = hypotheses.map(|(sequence, hypothesis)| self.finish(sequence, hypothesis)).collect();
                Ok(Stepped { parents: vec![], events })
            }
        }
    }

    fn finish(&mut self, sequence: usize, hypothesis: Hypothesis) -> Event {
        self.chosen += hypothesis.choices.len();
        let mut choices = hypothesis.choices;
        if hypothesis.reason == FinishReason::Eos {
            choices.pop();
        }
        let ids: Vec<u32> = choices.iter().map(|choice| choice.id).collect();
        let mut stop = StopMatcher::new(&self.stop);
        let mut text = stop.push(&self.tokenizer.decode(&ids)).text;
        text.push_str(&stop.finish());
        let tokens = choices.into_iter().map(|choice| named(choice, &self.tokenizer)).collect();
        Event::Finished { sequence, reason: hypothesis.reason, rest: text.clone(), text, tokens }
    }
}
