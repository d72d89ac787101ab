//! `POST /v1/generate`.

mod stream;

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

pub use stream::StreamEvent;

use crate::engine::{FinishReason, Token, Usage};
use crate::text::Message;

use super::auth::{Generate, May};
use super::inference::{Answer, GenerateCall, Generation, Prompt, RequestParameters, Scheduling};
use super::inputs::Inputs;
use super::measure::{self, AdapterLabel};
use super::openapi::InferenceErrors;
use super::{ApiError, AppState, Json};

/// The routes of this file.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(generate))
}

/// What to generate from and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateRequest {
    /// `name`, `name@3`, `name@sha256:<hex>` or `name@ckpt-<step>`; absent or null: the plain base.
    #[schema(example = "joke")]
    pub adapter_id: Option<String>,
    /// Needed without an adapter when there are several bases.
    pub base: Option<String>,
    /// Either this or `messages`.
    pub input: Option<Inputs>,
    /// A conversation, for bases with a chat template.
    pub messages: Option<Vec<ChatMessage>>,
    pub parameters: Option<RequestParameters>,
    /// Whether the answer lists its tokens. Default false.
    pub details: Option<bool>,
    /// Whether the answer comes as server-sent events. Default false.
    pub stream: Option<bool>,
    /// Keeps only so many tokens of a longer prompt: the last ones.
    #[schema(minimum = 1)]
    pub truncate: Option<usize>,
    /// From -100 to 100; higher runs earlier. Default 0.
    pub priority: Option<i32>,
    /// When to give up, with 504.
    #[schema(minimum = 1)]
    pub timeout_ms: Option<u64>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatMessage {
    #[schema(example = "user")]
    pub role: String,
    pub content: String,
}

/// All answers.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct GenerateResponse {
    pub id: String,
    pub adapter_id: Option<String>,
    pub adapter_version: Option<u32>,
    pub base: String,
    pub outputs: Vec<Output>,
    pub usage: Usage,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Output {
    /// Which input it answers, from 0.
    pub input: usize,
    /// Which of `num_return_sequences`, from 0.
    pub sequence: usize,
    /// Without special tokens and stop strings.
    pub text: String,
    pub finish_reason: FinishReason,
    /// With `details`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<Token>>,
}

impl GenerateRequest {
    fn into_call(self) -> Result<GenerateCall, ApiError> {
        let prompts = match (self.input, self.messages) {
            (Some(inputs), None) => inputs.into_prompts(),
            (None, Some(messages)) => {
                let messages = messages.into_iter().map(|ChatMessage { role, content }| Message { role, content });
                vec![Prompt::Messages(messages.collect())]
            }
            (None, None) => return Err(ApiError::validation("input", "input or messages is needed, given neither")),
            (Some(_), Some(_)) => return Err(ApiError::validation("input", "input or messages is needed, given both")),
        };
        Ok(GenerateCall {
            adapter_id: self.adapter_id,
            base: self.base,
            prompts,
            parameters: self.parameters.unwrap_or_default(),
            streams: self.stream.unwrap_or_default(),
            truncate: self.truncate,
            scheduling: Scheduling::new(self.priority.unwrap_or_default(), self.timeout_ms)?,
        })
    }
}

/// Generate text with an adapter or the plain base.
///
/// What `parameters` leave open comes from the adapter's saved generation settings, then from the base's
/// generation_config.json, then from the defaults. With `stream: true` the answer is server-sent events; after the last
/// one comes `data: [DONE]`. Closing the connection ends the request.
#[utoipa::path(
    post,
    path = "/v1/generate",
    tag = "inference",
    request_body = GenerateRequest,
    responses(
        (status = 200, description = "Answers, or with `stream` their tokens as they come", content(
            (GenerateResponse = "application/json"),
            (StreamEvent = "text/event-stream"),
        )),
        InferenceErrors,
    )
)]
async fn generate(
    caller: May<Generate>,
    State(state): State<AppState>,
    Json(request): Json<GenerateRequest>,
) -> Result<Response, ApiError> {
    let (details, streams) = (request.details.unwrap_or_default(), request.stream.unwrap_or_default());
    let generation = Generation::start(&state, &caller, request.into_call()?).await?;
    let label = AdapterLabel::of(&generation.target);
    let mut response = match streams {
        true => stream_response(generation),
        false => {
            let answer = generation.collect().await?;
            measure::tokens(&answer.target, answer.usage);
            axum::Json(GenerateResponse::new(answer, details)).into_response()
        }
    };
    response.extensions_mut().insert(label);
    Ok(response)
}

impl GenerateResponse {
    fn new(answer: Answer, details: bool) -> Self {
        let outputs = answer.sequences.into_iter().map(|sequence| Output {
            input: sequence.input,
            sequence: sequence.sequence,
            text: sequence.text,
            finish_reason: sequence.reason,
            tokens: details.then_some(sequence.tokens),
        });
        let adapter = answer.target.adapter.as_ref();
        Self {
            id: format!("gen-{}", Uuid::now_v7().simple()),
            adapter_id: adapter.map(|adapter| adapter.name.to_string()),
            adapter_version: adapter.map(|adapter| adapter.version),
            base: answer.target.base.name().to_owned(),
            outputs: outputs.collect(),
            usage: answer.usage,
        }
    }
}

fn stream_response(generation: Generation) -> Response {
    let events = stream::frames(generation).map(|frame| Ok::<SseEvent, Infallible>(frame.into_sse()));
    // Comments keep proxies from closing a connection that waits for its first token.
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}
