//! `GET /metrics`.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{May, Read};
use super::openapi::ReadErrors;
use super::{ApiError, AppState, Code, measure};

/// The routes of this file.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Counters and gauges in Prometheus' text format.
///
/// Labels name adapters, so where keys are asked for, it takes one that may read and sees all adapters.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "server",
    responses((status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"), ReadErrors)
)]
async fn metrics(caller: May<Read>, State(state): State<AppState>) -> Result<Response, ApiError> {
    if !caller.sees_everything() {
        return Err(ApiError::new(Code::Forbidden, "metrics name all adapters, and this key does not see them all"));
    }
    measure::engines(&state);
    measure::adapters(&state);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render()).into_response())
}
