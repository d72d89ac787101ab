//! From the engine's events to server-sent ones.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Instant;

use axum::response::sse::Event as SseEvent;
use futures_util::stream::{self, SelectAll, Stream, StreamExt};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{EngineError, Event, FinishReason, Token, Usage};
use crate::http::ApiError;
use crate::http::inference::{Generation, RunningInput, Target};
use crate::http::measure;

/// One event of a streamed answer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct StreamEvent {
    /// Which input it belongs to, from 0.
    pub input: usize,
    /// Which of `num_return_sequences`, from 0.
    pub sequence: usize,
    /// Null where only text or the end is told.
    pub token: Option<Token>,
    /// What comes next in the answer; all of them joined are the answer.
    pub text: String,
    /// In the last event of each sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// In the last event of all: of the whole request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What goes over the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    Event(StreamEvent),
    Error(ApiError),
    Done,
}

impl Frame {
    /// In the framing of server-sent events.
    pub fn into_sse(self) -> SseEvent {
        let json =
            |value: serde_json::Result<String>| value.unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
        match self {
            Self::Event(event) => SseEvent::default().data(json(serde_json::to_string(&event))),
            Self::Error(error) => SseEvent::default().event("error").data(json(serde_json::to_string(&error.body()))),
            Self::Done => SseEvent::default().data("[DONE]"),
        }
    }
}

type Tagged = Pin<Box<dyn Stream<Item = (usize, Event)> + Send>>;

/// The frames of a generation. Dropping the stream cancels what still runs.
pub fn frames(generation: Generation) -> impl Stream<Item = Frame> + Send {
    let Generation { target, inputs, sequences, max_new_tokens } = generation;
    let before = inputs.iter().map(|input| input.before.clone()).collect();
    let merged: SelectAll<Tagged> =
        stream::select_all(inputs.into_iter().enumerate().map(|(index, input)| tag(index, input)));
    let state = (
        merged,
        Framer::new(before, sequences, max_new_tokens),
        Measure { target, since: Instant::now(), first: true },
    );
    stream::unfold(state, |(mut merged, mut framer, mut measure)| async move {
        loop {
            if let Some(frame) = framer.ready.pop_front() {
                measure.see(&frame);
                return Some((frame, (merged, framer, measure)));
            }
            if framer.ended {
                return None;
            }
            match merged.next().await {
                Some((input, event)) => framer.take(input, event),
                None => framer.fail(measure.target.cut_off()),
            }
        }
    })
}

fn tag(index: usize, input: RunningInput) -> Tagged {
    Box::pin(stream::unfold(input.events, move |mut events| async move {
        let event = events.next().await?;
        Some(((index, event), events))
    }))
}

/// What metrics learn from a stream.
struct Measure {
    target: Target,
    since: Instant,
    first: bool,
}

impl Measure {
    fn see(&mut self, frame: &Frame) {
        let Frame::Event(event) = frame else { return };
        if std::mem::take(&mut self.first) {
            measure::first_token(&self.target, self.since.elapsed());
        }
        if let Some(usage) = event.usage {
            measure::tokens(&self.target, usage);
        }
    }
}

/// How far a sequence is told.
#[derive(Clone, Default)]
struct Sent {
    tokens: usize,
    begun: bool,
    /// Text of the token that waits for the end.
    tail: String,
}

/// Orders events into frames: prompt text first, end and usage in the last event. No clocks, no channels.
struct Framer {
    /// Text that goes before the first event of each sequence, per input.
    before: Vec<String>,
    /// Per input and sequence.
    sent: Vec<Vec<Sent>>,
    /// The token that makes an answer full is told with its end.
    max_new_tokens: usize,
    finished: Vec<usize>,
    /// The last event of an input waits for the usage that follows it.
    held: Vec<Option<StreamEvent>>,
    running: usize,
    usage: Usage,
    ready: VecDeque<Frame>,
    ended: bool,
}

impl Framer {
    fn new(before: Vec<String>, sequences: usize, max_new_tokens: usize) -> Self {
        let inputs = before.len();
        Self {
            before,
            sent: vec![vec![Sent::default(); sequences]; inputs],
            max_new_tokens,
            finished: vec![0; inputs],
            held: vec![None; inputs],
            running: inputs,
            usage: Usage::default(),
            ready: VecDeque::new(),
            ended: false,
        }
    }

    fn take(&mut self, input: usize, event: Event) {
        match event {
            Event::Token { sequence, token, text } => match self.sent[input].get_mut(sequence) {
                Some(sent) if sent.tokens + 1 == self.max_new_tokens => sent.tail = text,
                _ => {
                    let event = self.event(input, sequence, Some(token), text);
                    self.ready.push_back(Frame::Event(event));
                }
            },
            Event::Finished { sequence, reason, mut tokens, rest, .. } => {
                let sent = self.sent[input].get_mut(sequence).map(|sent| (sent.tokens, std::mem::take(&mut sent.tail)));
                let (sent, tail) = sent.unwrap_or_default();
                let mut unsent = tokens.drain(sent.min(tokens.len())..).collect::<VecDeque<_>>();
                let last = unsent.pop_back();
                for token in unsent {
                    let event = self.event(input, sequence, Some(token), String::new());
                    self.ready.push_back(Frame::Event(event));
                }
                let mut event = self.event(input, sequence, last, tail + &rest);
                event.finish_reason = Some(reason);
                self.finished[input] += 1;
                if self.finished[input] < self.sent[input].len() {
                    self.ready.push_back(Frame::Event(event));
                } else {
                    self.held[input] = Some(event);
                }
            }
            Event::Done(usage) => self.done(input, usage),
            Event::Failed(error) => self.fail(error),
            Event::Scores(_) => {}
        }
    }

    fn event(&mut self, input: usize, sequence: usize, token: Option<Token>, mut text: String) -> StreamEvent {
        if let Some(sent) = self.sent[input].get_mut(sequence) {
            sent.tokens += usize::from(token.is_some());
            if !std::mem::replace(&mut sent.begun, true) {
                text.insert_str(0, &self.before[input]);
            }
        }
        StreamEvent { input, sequence, token, text, finish_reason: None, usage: None }
    }

    fn done(&mut self, input: usize, usage: Usage) {
        crate::http::inference::add_usage(&mut self.usage, usage);
        self.running -= 1;
        if let Some(mut event) = self.held[input].take() {
            event.usage = (self.running == 0).then_some(self.usage);
            self.ready.push_back(Frame::Event(event));
        }
        if self.running == 0 {
            self.ready.push_back(Frame::Done);
            self.ended = true;
        }
    }

    fn fail(&mut self, error: EngineError) {
        self.ready.push_back(Frame::Error(error.into()));
        self.ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32) -> Token {
        Token { id, text: id.to_string(), logprob: 0.0, top_logprobs: Vec::new() }
    }

    fn event(input: usize, sequence: usize, id: Option<u32>, text: &str) -> StreamEvent {
        StreamEvent { input, sequence, token: id.map(token), text: text.into(), finish_reason: None, usage: None }
    }

    fn finished(sequence: usize, ids: &[u32], rest: &str) -> Event {
        let tokens = ids.iter().copied().map(token).collect();
        Event::Finished { sequence, reason: FinishReason::Length, text: String::new(), tokens, rest: rest.into() }
    }

    fn run(before: &[&str], sequences: usize, events: Vec<(usize, Event)>) -> Vec<Frame> {
        let mut framer = Framer::new(before.iter().map(|text| text.to_string()).collect(), sequences, 4);
        events.into_iter().for_each(|(input, event)| framer.take(input, event));
        framer.ready.into()
    }

    const USAGE: Usage = Usage { prompt_tokens: 2, completion_tokens: 2, cached_tokens: 0 };

    #[test]
    fn the_last_event_has_the_last_token_the_reason_and_the_usage() {
        let events = vec![
            (0, Event::Token { sequence: 0, token: token(1), text: "a".into() }),
            (0, finished(0, &[1, 2, 3], "bc")),
            (0, Event::Done(USAGE)),
        ];
        let mut last = event(0, 0, Some(3), "bc");
        (last.finish_reason, last.usage) = (Some(FinishReason::Length), Some(USAGE));
        let expected = [event(0, 0, Some(1), "pa"), event(0, 0, Some(2), ""), last].map(Frame::Event);
        assert_eq!(run(&["p"], 1, events), [&expected[..], &[Frame::Done]].concat());
    }

    #[test]
    fn the_token_that_makes_an_answer_full_is_told_with_its_end() {
        let token_event = |id: u32, text: &str| (0, Event::Token { sequence: 0, token: token(id), text: text.into() });
        let mut events: Vec<_> = [1, 2, 3, 4].map(|id| token_event(id, &"abcd"[id as usize - 1..id as usize])).into();
        events.extend([(0, finished(0, &[1, 2, 3, 4], "e")), (0, Event::Done(USAGE))]);
        let frames = run(&[""], 1, events);
        let mut last = event(0, 0, Some(4), "de");
        (last.finish_reason, last.usage) = (Some(FinishReason::Length), Some(USAGE));
        assert_eq!(frames[2..], [Frame::Event(event(0, 0, Some(3), "c")), Frame::Event(last), Frame::Done]);
    }

    #[test]
    fn only_the_very_last_of_several_sequences_and_inputs_has_the_usage_of_all() {
        let events = vec![
            (1, finished(1, &[5], "x")),
            (0, finished(0, &[], "")),
            (0, finished(1, &[7], "y")),
            (0, Event::Done(USAGE)),
            (1, finished(0, &[6], "z")),
            (1, Event::Done(USAGE)),
        ];
        let frames = run(&["", ""], 2, events);
        assert_eq!(frames.len(), 5);
        let usage = |frame: &Frame| match frame {
            Frame::Event(event) => event.usage.map(|usage| usage.prompt_tokens),
            _ => panic!("{frame:?}"),
        };
        assert_eq!(frames[..4].iter().map(usage).collect::<Vec<_>>(), [None, None, None, Some(4)]);
        assert_eq!(frames[4], Frame::Done);
    }

    #[test]
    fn a_failure_ends_the_stream_without_done() {
        let frames = run(&[""], 1, vec![(0, Event::Failed(EngineError::Timeout(5)))]);
        assert!(matches!(&frames[..], [Frame::Error(error)] if error.code == crate::http::Code::Timeout), "{frames:?}");
    }
}
