//! The beams of one request: search, texts and tokens.

use std::sync::Arc;

use crate::text::{StreamDecoder, Tokenizer};

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
    /// One for each running beam; none without stop strings.
    watches: Vec<Watch>,
    /// Tokens of the answers, end-of-text included.
    pub chosen: usize,
}

/// Looks for stop strings in one beam, a token at a time, so that a candidate costs its newest token and not its whole answer.
#[derive(Clone)]
struct Watch {
    decoder: StreamDecoder,
    stop: StopMatcher,
}

impl Watch {
    /// Takes the newest token; answers whether a stop string is complete.
    fn push(&mut self, token: u32) -> bool {
        self.stop.push(&self.decoder.push(token)).stopped
    }
}

impl Beams {
    /// A search from the end of a prompt.
    pub fn new(parameters: Parameters, prompt: &[u32], seed: u64, tokenizer: &Arc<Tokenizer>) -> Self {
        let search = Some(BeamSearch::new(&parameters, prompt, seed));
        let stop: Vec<String> = parameters.stop.into_iter().filter(|stop| !stop.is_empty()).collect();
        let watch = || Watch { decoder: StreamDecoder::new(tokenizer.clone()), stop: StopMatcher::new(&stop) };
        Self {
            search,
            tokenizer: tokenizer.clone(),
            watches: if stop.is_empty() { vec![] } else { vec![watch()] },
            stop,
            chosen: 0,
        }
    }

    /// Takes a row of logits `[vocab]` for each running beam.
    pub fn step(&mut self, logits: &[&[f32]]) -> Result<Stepped, SamplerError> {
        let over = Stepped { grown: vec![], events: vec![] };
        let Some(mut search) = self.search.take() else { return Ok(over) };
        let watches = &self.watches;
        let stops = |beam: usize, token| watches.get(beam).is_some_and(|watch| watch.clone().push(token));
        match search.step(logits, stops)? {
            Some(step) => {
                self.search = Some(search);
                if !self.stop.is_empty() {
                    let next = step.parents.iter().zip(&step.tokens).map(|(&parent, &token)| {
                        let mut watch = self.watches[parent].clone();
                        watch.push(token);
                        watch
                    });
                    self.watches = next.collect();
                }
                Ok(Stepped { grown: step.parents.into_iter().zip(step.tokens).collect(), events: vec![] })
            }
            None => {
                let hypotheses = search.into_hypotheses().into_iter().enumerate();
                let events = hypotheses.map(|(sequence, hypothesis)| self.finish(sequence, hypothesis)).collect();
                Ok(Stepped { grown: vec![], events })
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
        let watched = stop.push(&self.tokenizer.decode(&ids));
        // Half a character that waited may complete a stop string.
        let reason = if watched.stopped { FinishReason::Stop } else { hypothesis.reason };
        let text = watched.text + &stop.finish();
        let tokens = choices.into_iter().map(|choice| named(choice, &self.tokenizer)).collect();
        Event::Finished { sequence, reason, rest: text.clone(), text, tokens }
    }
}
