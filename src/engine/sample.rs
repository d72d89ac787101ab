//! Sequences that grow on their own: greedy or sampled, one or several per request.

use std::sync::Arc;

use crate::model::Draw;
use crate::text::{StreamDecoder, Tokenizer};

use super::sampler::{
    Choice, NextToken, Sampler, SamplerError, SequenceHistory, SequenceRng, asks_logits_alone, samples,
};
use super::stop::StopMatcher;
use super::{Event, FinishReason, Parameters, Token, TokenChoice};

/// The sequences of one request; they share the prompt and differ by their random streams.
pub struct Samples {
    parameters: Parameters,
    tokenizer: Arc<Tokenizer>,
    sequences: Vec<Sequence>,
    /// Which sequence each branch of the unit is.
    branches: Vec<usize>,
    /// Whether the prompt's own logits were seen, so that branches have rows of their own.
    forked: bool,
    /// Tokens chosen, end-of-text included.
    pub chosen: usize,
}

struct Sequence {
    rng: SequenceRng,
    history: SequenceHistory,
    decoder: StreamDecoder,
    stop: StopMatcher,
    text: String,
    tokens: Vec<Token>,
}

/// What comes of a step.
pub struct Stepped {
    /// For each branch that goes on, the branch it continues and its next token. None: the request is done.
    pub grown: Vec<(usize, u32)>,
    pub events: Vec<Event>,
}

impl Samples {
    /// Sequences that have said nothing yet. `seed` decides everything that is drawn.
    pub fn new(parameters: Parameters, prompt: &[u32], seed: u64, tokenizer: &Arc<Tokenizer>) -> Self {
        let history = SequenceHistory::new(&parameters, prompt);
        let sequence = |index| Sequence {
            rng: SequenceRng::new(seed, index),
            history: history.clone(),
            decoder: StreamDecoder::new(tokenizer.clone()),
            stop: StopMatcher::new(&parameters.stop),
            text: String::new(),
            tokens: Vec::new(),
        };
        Self {
            sequences: (0..parameters.num_return_sequences).map(sequence).collect(),
            branches: (0..parameters.num_return_sequences).collect(),
            parameters,
            tokenizer: tokenizer.clone(),
            forked: false,
            chosen: 0,
        }
    }

    /// Whether the model can choose for every branch, by logits alone and whatever was said before; `draws` says whether it can
    /// draw. Sequences that share the prompt's logits need as many choices of them.
    pub fn leave_the_choice(&self, draws: bool) -> bool {
        let own = self.forked || self.sequences.len() == 1;
        self.sequences.iter().all(|sequence| {
            asks_logits_alone(&self.parameters, &sequence.history) && (!samples(&self.parameters) || (draws && own))
        })
    }

    /// How the next token of a branch is drawn; absent where it takes the likeliest. Takes a number from the sequence's stream.
    pub fn draw(&mut self, branch: usize) -> Option<Draw> {
        let Parameters { temperature, top_k, top_p, min_p, .. } = self.parameters;
        let sequence = self.branches.get(branch).filter(|_| samples(&self.parameters))?;
        let uniform = self.sequences[*sequence].rng.uniform();
        Some(Draw { temperature, top_k, top_p, min_p, uniform })
    }

    /// Chooses the next token of every branch; `next` has one row for each, or a single one after the prompt.
    pub fn step(&mut self, next: &[NextToken<'_>], sampler: &mut Sampler) -> Result<Stepped, SamplerError> {
        let mut stepped = Stepped { grown: vec![], events: vec![] };
        let mut going = vec![];
        for (branch, index) in std::mem::take(&mut self.branches).into_iter().enumerate() {
            let row = if self.forked { branch } else { 0 };
            let sequence = &mut self.sequences[index];
            let choice = sampler.next(next[row], &self.parameters, &sequence.history, &mut sequence.rng)?;
            let token = choice.id;
            self.chosen += 1;
            if let Some(reason) = sequence.take(index, choice, &self.parameters, &self.tokenizer, &mut stepped.events) {
                stepped.events.push(sequence.finish(index, reason));
            } else {
                stepped.grown.push((row, token));
                going.push(index);
            }
        }
        self.branches = going;
        self.forked = true;
        Ok(stepped)
    }
}

impl Sequence {
    /// Adds a chosen token; answers why the sequence ends, if it does.
    fn take(
        &mut self,
        index: usize,
        choice: Choice,
        parameters: &Parameters,
        tokenizer: &Tokenizer,
        events: &mut Vec<Event>,
    ) -> Option<FinishReason> {
        if !parameters.ignore_eos && parameters.eos.contains(&choice.id) {
            return Some(FinishReason::Eos);
        }
        self.history.push(choice.id);
        let watched = self.stop.push(&self.decoder.push(choice.id));
        self.text.push_str(&watched.text);
        let token = named(choice, tokenizer);
        self.tokens.push(token.clone());
        events.push(Event::Token { sequence: index, token, text: watched.text });
        match watched.stopped {
            true => Some(FinishReason::Stop),
            false => (self.tokens.len() >= parameters.max_new_tokens).then_some(FinishReason::Length),
        }
    }

    fn finish(&mut self, index: usize, reason: FinishReason) -> Event {
        let mut reason = reason;
        let mut rest = String::new();
        if reason != FinishReason::Stop {
            // Half a character that waited may complete a stop string.
            let watched = self.stop.push(&self.decoder.finish());
            rest.push_str(&watched.text);
            match watched.stopped {
                true => reason = FinishReason::Stop,
                false => rest.push_str(&self.stop.finish()),
            }
        }
        self.text.push_str(&rest);
        let (text, tokens) = (std::mem::take(&mut self.text), std::mem::take(&mut self.tokens));
        Event::Finished { sequence: index, reason, text, tokens, rest }
    }
}

/// A choice with the texts of its tokens.
pub fn named(choice: Choice, tokenizer: &Tokenizer) -> Token {
    let top = choice.top.into_iter().map(|(id, logprob)| TokenChoice { id, text: tokenizer.token_text(id), logprob });
    Token { id: choice.id, text: tokenizer.token_text(choice.id), logprob: choice.logprob, top_logprobs: top.collect() }
}
