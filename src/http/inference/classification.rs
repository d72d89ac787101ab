//! Classification: one engine request per input, and the labels that come back.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::adapter::ProblemType;
use crate::engine::{Event, EventStream, Request, Usage, Work};
use crate::http::{ApiError, AppState, Caller};

use super::generation::{add_usage, check_context, check_deadline, check_truncate};
use super::prompt::{BuiltPrompt, Keep};
use super::score::label;
use super::{Prompt, Scheduling, Target};

/// What a request wants classified.
#[derive(Clone, Debug)]
pub struct ClassifyCall {
    pub adapter_id: Option<String>,
    pub base: Option<String>,
    pub prompts: Vec<Prompt>,
    pub threshold: f32,
    /// Most labels to report.
    pub top_k: Option<usize>,
    /// Most tokens of a text to keep.
    pub truncate: Option<usize>,
    pub scheduling: Scheduling,
}

/// A label and how sure the head is of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Label {
    pub label: String,
    pub score: f32,
}

/// The labels of all inputs.
pub struct Classification {
    pub target: Target,
    /// For each input: labels from the best to the worst, and those predicted.
    pub results: Vec<(Vec<Label>, Vec<String>)>,
    pub usage: Usage,
}

impl Classification {
    /// Resolves, tokenises and runs a request.
    pub async fn run(state: &AppState, caller: &Caller, call: ClassifyCall) -> Result<Self, ApiError> {
        let (scheduling, threshold, top_k) = (call.scheduling, call.threshold, call.top_k);
        let caller = caller.clone();
        let (target, labels, problem, prompts) = state.blocking(move |state| prepare(state, &caller, &call)).await?;
        let mut streams: Vec<EventStream> = Vec::with_capacity(prompts.len());
        // What was sent, whether or not a decoder's head looks beyond the last token that is not padding.
        let vocab = target.base.sites().vocab;
        let sent = prompts.iter().flat_map(|prompt| &prompt.tokens).filter(|&&id| (id as usize) < vocab).count();
        for prompt in prompts {
            let request = Request {
                prompt: prompt.tokens,
                adapter: target.lease().cloned(),
                work: Work::Classify,
                priority: scheduling.priority,
                timeout: scheduling.remaining(),
            };
            streams.push(target.base.engine.submit(request)?);
        }
        let mut results = Vec::with_capacity(streams.len());
        let mut usage = Usage::default();
        for mut stream in streams {
            let mut raw = None;
            loop {
                match stream.next().await {
                    Some(Event::Scores(scores)) => raw = Some(scores),
                    Some(Event::Done(more)) => {
                        add_usage(&mut usage, more);
                        break;
                    }
                    Some(Event::Failed(error)) => return Err(error.into()),
                    Some(Event::Token { .. } | Event::Finished { .. }) => {}
                    None => return Err(target.cut_off().into()),
                }
            }
            let raw = raw.ok_or_else(|| ApiError::internal("the engine gave no scores"))?;
            let (mut scored, predicted) = label(&raw, &labels, problem, threshold);
            scored.truncate(top_k.unwrap_or(usize::MAX));
            results.push((scored, predicted));
        }
        usage.prompt_tokens = sent;
        Ok(Self { target, results, usage })
    }
}

type Prepared = (Target, Vec<String>, ProblemType, Vec<BuiltPrompt>);

/// The part that blocks.
fn prepare(state: &AppState, caller: &Caller, call: &ClassifyCall) -> Result<Prepared, ApiError> {
    super::check_inputs(call.prompts.len(), &state.config)?;
    check_truncate(call.truncate)?;
    if !(0.0..=1.0).contains(&call.threshold) {
        return Err(ApiError::validation(
            "threshold",
            format!("threshold must be from 0 to 1, given {}", call.threshold),
        ));
    }
    if call.top_k == Some(0) {
        return Err(ApiError::validation("top_k", "top_k must be at least 1, given 0"));
    }
    let target = Target::resolve(state, caller, call.adapter_id.as_deref(), call.base.as_deref())?;
    let lease = target.require_head()?.clone();
    let head = lease.head.as_ref().ok_or_else(|| ApiError::internal("the head went missing"))?;
    let mut prompts = Vec::with_capacity(call.prompts.len());
    for (index, prompt) in call.prompts.iter().enumerate() {
        let built = target.prompt(prompt, call.truncate, Keep::Start)?;
        check_context(&target, &built, 0, index)?;
        prompts.push(built);
    }
    check_deadline(call.scheduling)?;
    Ok((target, head.labels.clone(), head.problem, prompts))
}
