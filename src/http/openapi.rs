//! `GET /openapi.json`, and what its parts share.

use axum::Extension;
use axum::body::Bytes;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{OpenApi, SecurityRequirement};
use utoipa::{IntoResponses, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::error::ErrorBody;

/// The routes of this file.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(document))
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Repertoire",
        description = "One frozen base model, a whole repertoire of adapters: an inference server with hot-swappable adapters.\n\nEvery error has the same shape; `code` is for programs. `x-request-id` is taken from the request or made, and comes back."
    ),
    tags(
        (name = "inference", description = "Generate and classify"),
        (name = "adapters", description = "Publish, look at and change adapters"),
        (name = "server", description = "Bases, health, metrics"),
    )
)]
struct Head;

/// The document without its routes.
pub fn head() -> OpenApi {
    let mut document = Head::openapi();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme("key", bearer);
    // Keys are asked for only where the operator listed some.
    document.security =
        Some(vec![SecurityRequirement::default(), SecurityRequirement::new("key", Vec::<String>::new())]);
    document
}

/// The finished document, written once.
#[derive(Clone)]
pub struct Document(Bytes);

impl Document {
    /// Writes it out.
    pub fn new(document: &OpenApi) -> Self {
        Self(document.to_pretty_json().unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}")).into())
    }
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "server",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
async fn document(Extension(Document(bytes)): Extension<Document>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], bytes)
}

/// What can go wrong with every request that needs a key.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "a table for the document; answers are made from ApiError")]
pub enum ReadErrors {
    /// No key, or one that is not known.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The key lacks the scope.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// `adapter_not_found`: unknown, or not visible to the key.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// `validation`: says the limit and the given value.
    #[response(status = 422)]
    Validation(ErrorBody),
    /// The cause is in the server's log, under the x-request-id.
    #[response(status = 500)]
    Internal(ErrorBody),
}

/// What can go wrong when adapters are changed.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "a table for the document; answers are made from ApiError")]
pub enum WriteErrors {
    /// Malformed JSON or multipart.
    #[response(status = 400)]
    Malformed(ErrorBody),
    /// No key, or one that is not known.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The key lacks the scope.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// `adapter_not_found`: unknown, or not visible to the key.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// `version_conflict`: If-Match or If-None-Match does not hold.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// Larger than limits.body_bytes.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// Neither JSON nor multipart.
    #[response(status = 415)]
    UnsupportedMediaType(ErrorBody),
    /// `validation`, or `adapter_unsupported`: says what cannot be applied exactly and why.
    #[response(status = 422)]
    Validation(ErrorBody),
    /// The cause is in the server's log, under the x-request-id.
    #[response(status = 500)]
    Internal(ErrorBody),
    /// `draining`: the server is on its way out.
    #[response(status = 503)]
    Draining(ErrorBody),
}

/// What can go wrong with inference.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "a table for the document; answers are made from ApiError")]
pub enum InferenceErrors {
    /// Malformed JSON.
    #[response(status = 400)]
    Malformed(ErrorBody),
    /// No key, or one that is not known.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// The key lacks the scope.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// `adapter_not_found` (unknown, or not visible to the key) or `base_not_found`.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// Larger than limits.body_bytes.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// Not JSON.
    #[response(status = 415)]
    UnsupportedMediaType(ErrorBody),
    /// `validation`: says the limit and the given value.
    #[response(status = 422)]
    Validation(ErrorBody),
    /// `overloaded`: too many requests wait; `Retry-After` says when to try again.
    #[response(status = 429)]
    Overloaded(ErrorBody),
    /// The cause is in the server's log, under the x-request-id.
    #[response(status = 500)]
    Internal(ErrorBody),
    /// `draining`: the server is on its way out.
    #[response(status = 503)]
    Draining(ErrorBody),
    /// `timeout`: the request's timeout_ms passed.
    #[response(status = 504)]
    Timeout(ErrorBody),
}
