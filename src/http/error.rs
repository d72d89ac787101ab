//! The one shape of every error that leaves this server.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::adapter::AdapterError;
use crate::engine::EngineError;
use crate::text::TextError;

/// What went wrong, as `code` says it to programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Malformed,
    Unauthorized,
    Forbidden,
    NotFound,
    AdapterNotFound,
    BaseNotFound,
    MethodNotAllowed,
    VersionConflict,
    TooLarge,
    UnsupportedMediaType,
    Validation,
    AdapterUnsupported,
    Overloaded,
    Internal,
    Draining,
    Loading,
    Unavailable,
    Timeout,
}

impl Code {
    /// Status, the word in `code`, and OpenAI's word in `type`.
    const fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Malformed => (400, "malformed", "invalid_request_error"),
            Self::Unauthorized => (401, "unauthorized", "authentication_error"),
            Self::Forbidden => (403, "forbidden", "permission_error"),
            Self::NotFound => (404, "not_found", "invalid_request_error"),
            Self::AdapterNotFound => (404, "adapter_not_found", "invalid_request_error"),
            Self::BaseNotFound => (404, "base_not_found", "invalid_request_error"),
            Self::MethodNotAllowed => (405, "method_not_allowed", "invalid_request_error"),
            Self::VersionConflict => (409, "version_conflict", "invalid_request_error"),
            Self::TooLarge => (413, "too_large", "invalid_request_error"),
            Self::UnsupportedMediaType => (415, "unsupported_media_type", "invalid_request_error"),
            Self::Validation => (422, "validation", "invalid_request_error"),
            Self::AdapterUnsupported => (422, "adapter_unsupported", "invalid_request_error"),
            Self::Overloaded => (429, "overloaded", "rate_limit_error"),
            Self::Internal => (500, "internal", "server_error"),
            Self::Draining => (503, "draining", "server_error"),
            Self::Loading => (503, "loading", "server_error"),
            Self::Unavailable => (503, "unavailable", "server_error"),
            Self::Timeout => (504, "timeout", "server_error"),
        }
    }
}

/// An error on its way to a client.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: Code,
    /// For people: what is wrong, the limit and the given value, what to do.
    pub message: String,
    /// The parameter at fault.
    pub param: Option<String>,
}

/// The body of every error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// For people; says the limit and the given value.
    pub message: String,
    /// OpenAI's error type.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub kind: String,
    /// For programs.
    #[schema(example = "validation")]
    pub code: String,
    /// The parameter at fault, e.g. `parameters.top_p`.
    pub param: Option<String>,
}

impl ApiError {
    /// An error that no single parameter is to blame for.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None }
    }

    /// 422: a parameter outside of what is allowed.
    pub fn validation(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: Code::Validation, message: message.into(), param: Some(param.into()) }
    }

    /// 500. The cause goes to the log, never to the client.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(
            Code::Internal,
            "the server failed to answer; its log has the cause under this request's x-request-id",
        )
    }

    /// Says which parameter is at fault.
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The status it answers with.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.parts().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The body it answers with, for streams too.
    pub fn body(&self) -> ErrorBody {
        let (_, code, kind) = self.code.parts();
        let error = ErrorDetail {
            message: self.message.clone(),
            kind: kind.into(),
            code: code.into(),
            param: self.param.clone(),
        };
        ErrorBody { error }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self.code {
            Code::Overloaded => headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
            Code::Unauthorized => headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            _ => None,
        };
        response
    }
}

impl From<AdapterError> for ApiError {
    fn from(error: AdapterError) -> Self {
        let code = match &error {
            AdapterError::Name(_) | AdapterError::Reference(_) | AdapterError::Invalid(_) => Code::Validation,
            AdapterError::NotFound(_) => Code::AdapterNotFound,
            AdapterError::Conflict { .. } => Code::VersionConflict,
            AdapterError::Unsupported(_) => Code::AdapterUnsupported,
            AdapterError::TooLarge(_) => Code::TooLarge,
            AdapterError::Store(_) | AdapterError::Tensor(_) => return Self::internal(error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::Overloaded { .. } => Code::Overloaded,
            EngineError::Invalid(_) | EngineError::Sampling(_) => Code::Validation,
            EngineError::Draining => Code::Draining,
            // Loading and tokenising used up a part of what the client gave: the engine's number would be a surprise.
            EngineError::Timeout(_) => {
                return Self::new(Code::Timeout, "the request's timeout_ms passed before the answer was complete");
            }
            EngineError::Step(_) => return Self::internal(error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Load(_) => Self::internal(error),
            TextError::Encode(_) | TextError::Input(_) => Self::validation("input", error.to_string()),
            TextError::Chat(_) => Self::validation("messages", error.to_string()),
        }
    }
}
