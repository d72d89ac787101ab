//! What a request hears from the engine.

use serde::Serialize;

/// One step of an answer. A request's stream ends after [`Event::Done`] or [`Event::Failed`].
#[derive(Clone, Debug)]
pub enum Event {
    /// A token of a sequence. `text` is what may be shown now: whole characters, nothing that could become a stop string.
    Token { sequence: usize, token: Token, text: String },
    /// A sequence ended. Its text and tokens are complete, without end-of-text and stop strings.
    Finished { sequence: usize, reason: FinishReason, text: String, tokens: Vec<Token>, rest: String },
    /// One raw number per label.
    Scores(Vec<f32>),
    /// All sequences ended.
    Done(Usage),
    /// The request failed; nothing follows.
    Failed(EngineError),
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Token {
    pub id: u32,
    pub text: String,
    /// Log-softmax of the raw logits: no temperature, no penalties.
    pub logprob: f32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<TokenChoice>,
}

/// An alternative to a chosen token.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TokenChoice {
    pub id: u32,
    pub text: String,
    pub logprob: f32,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    Stop,
    Length,
    Eos,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Usage {
    /// Without virtual tokens.
    pub prompt_tokens: usize,
    /// With end-of-text tokens.
    pub completion_tokens: usize,
    pub cached_tokens: usize,
}

/// Why the engine did not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// 429.
    #[error("{waiting} requests are waiting, the limit is {limit}; try again later")]
    Overloaded { waiting: usize, limit: usize },
    /// 422.
    #[error("{0}")]
    Invalid(String),
    /// 503.
    #[error("the server is draining and takes no new requests")]
    Draining,
    /// The client's `timeout_ms` passed (504).
    #[error("the request's timeout of {0} ms passed")]
    Timeout(u64),
    /// 422: no token could be chosen (extreme parameters, everything banned).
    #[error("{0}")]
    Sampling(String),
    /// 500; the message is for the log.
    #[error("step failed: {0}")]
    Step(String),
}
