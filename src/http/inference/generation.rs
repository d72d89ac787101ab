//! Generation: one engine request per input, and what comes back.

use std::time::Duration;

use crate::engine::{EngineError, Event, EventStream, FinishReason, Request, Token, Usage, Work};
use crate::http::{ApiError, AppState, Caller};

use super::parameters::{Limits, RequestParameters, Settled, settle};
use super::prompt::{BuiltPrompt, Keep};
use super::{Prompt, Scheduling, Target};

/// What a request wants generated.
#[derive(Clone, Debug, Default)]
pub struct GenerateCall {
    pub adapter_id: Option<String>,
    pub base: Option<String>,
    pub prompts: Vec<Prompt>,
    pub parameters: RequestParameters,
    pub streams: bool,
    /// Most tokens of a prompt to keep.
    pub truncate: Option<usize>,
    pub scheduling: Scheduling,
}

/// A running generation. Dropping it cancels what still runs.
pub struct Generation {
    pub target: Target,
    pub inputs: Vec<RunningInput>,
    /// Sequences of each input.
    pub sequences: usize,
    /// The longest that each may become.
    pub max_new_tokens: usize,
}

/// One input on its way through the engine.
pub struct RunningInput {
    pub events: EventStream,
    /// Goes before each answer; empty unless `return_full_text`.
    pub before: String,
}

/// All answers of a request.
pub struct Answer {
    pub target: Target,
    /// In order of input, then sequence.
    pub sequences: Vec<Sequence>,
    pub usage: Usage,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Sequence {
    pub input: usize,
    pub sequence: usize,
    pub text: String,
    pub reason: FinishReason,
    pub tokens: Vec<Token>,
}

impl Generation {
    /// Resolves, tokenises and queues a request.
    pub async fn start(state: &AppState, caller: &Caller, call: GenerateCall) -> Result<Self, ApiError> {
        let scheduling = call.scheduling;
        let caller = caller.clone();
        let (target, settled, prompts) = state.blocking(move |state| prepare(state, &caller, &call)).await?;
        let (sequences, max_new_tokens) = (settled.parameters.num_return_sequences, settled.parameters.max_new_tokens);
        let mut inputs = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let request = Request {
                prompt: prompt.tokens,
                adapter: target.lease().cloned(),
                work: Work::Generate(settled.parameters.clone()),
                priority: scheduling.priority,
                timeout: scheduling.remaining(),
            };
            let before = if settled.return_full_text { prompt.text } else { String::new() };
            // A refusal half way drops, and so cancels, the inputs queued before.
            inputs.push(RunningInput { events: target.base.engine.submit(request)?, before });
        }
        Ok(Self { target, inputs, sequences, max_new_tokens })
    }

    /// Waits for all answers.
    pub async fn collect(self) -> Result<Answer, ApiError> {
        let mut answer = Answer { target: self.target, sequences: Vec::new(), usage: Usage::default() };
        for (input, mut running) in self.inputs.into_iter().enumerate() {
            let first = answer.sequences.len();
            loop {
                match running.events.next().await {
                    Some(Event::Finished { sequence, reason, text, tokens, .. }) => {
                        let text = running.before.clone() + &text;
                        answer.sequences.push(Sequence { input, sequence, text, reason, tokens });
                    }
                    Some(Event::Done(usage)) => {
                        add_usage(&mut answer.usage, usage);
                        break;
                    }
                    Some(Event::Failed(error)) => return Err(error.into()),
                    Some(Event::Token { .. } | Event::Scores(_)) => {}
                    None => return Err(answer.target.cut_off().into()),
                }
            }
            answer.sequences[first..].sort_by_key(|sequence| sequence.sequence);
        }
        Ok(answer)
    }
}

/// Adds one input's tokens to a request's.
pub fn add_usage(total: &mut Usage, usage: Usage) {
    total.prompt_tokens += usage.prompt_tokens;
    total.completion_tokens += usage.completion_tokens;
    total.cached_tokens += usage.cached_tokens;
}

/// The part that blocks.
fn prepare(
    state: &AppState,
    caller: &Caller,
    call: &GenerateCall,
) -> Result<(Target, Settled, Vec<BuiltPrompt>), ApiError> {
    super::check_inputs(call.prompts.len(), &state.config)?;
    check_truncate(call.truncate)?;
    let target = Target::resolve(state, caller, call.adapter_id.as_deref(), call.base.as_deref())?;
    target.require_generation()?;
    let limits = Limits::new(state.config.scheduler.max_running);
    let adapter = target.lease().map(|lease| &lease.generation);
    let settled = settle(&call.parameters, adapter, &target.base.generation, call.streams, limits)?;
    let mut prompts = Vec::with_capacity(call.prompts.len());
    for (index, prompt) in call.prompts.iter().enumerate() {
        let built = target.prompt(prompt, call.truncate, Keep::End)?;
        check_context(&target, &built, settled.parameters.max_new_tokens, index)?;
        prompts.push(built);
    }
    check_deadline(call.scheduling)?;
    Ok((target, settled, prompts))
}

/// 422 unless it keeps something.
pub fn check_truncate(truncate: Option<usize>) -> Result<(), ApiError> {
    match truncate {
        Some(0) => Err(ApiError::validation("truncate", "truncate must be at least 1, given 0")),
        _ => Ok(()),
    }
}

/// 504 when loading and tokenising took all the time there was.
pub fn check_deadline(scheduling: Scheduling) -> Result<(), ApiError> {
    match scheduling.remaining() {
        Some(Duration::ZERO) => Err(EngineError::Timeout(0).into()),
        _ => Ok(()),
    }
}

/// 422 with all numbers when prompt and answer do not fit the base's context.
pub fn check_context(target: &Target, prompt: &BuiltPrompt, new_tokens: usize, index: usize) -> Result<(), ApiError> {
    let sites = target.base.sites();
    let prefix = target.lease().map_or(0, |lease| lease.prefix_len());
    let virtual_tokens = prefix + prompt.tokens.iter().filter(|&&id| id as usize >= sites.vocab).count();
    let text = prefix + prompt.tokens.len() - virtual_tokens;
    let total = (text + virtual_tokens).saturating_add(new_tokens);
    if total <= sites.context {
        return Ok(());
    }
    let answer = if new_tokens > 0 { format!(" and max_new_tokens {new_tokens}") } else { String::new() };
    let message = format!(
        "input {index} is too long: {text} tokens, {virtual_tokens} virtual tokens{answer} make {total}, the context of base {} is {}; shorten it or give truncate",
        target.base.name(),
        sites.context
    );
    Err(ApiError::validation("input", message))
}
