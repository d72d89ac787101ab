//! `GET /health` and `GET /ready`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::ErrorBody;
use super::{ApiError, AppState, Code};

/// The routes of this file. No key is asked for: load balancers have none.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(ready))
}

/// That all is well.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Health {
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// Is the process alive?
#[utoipa::path(get, path = "/health", tag = "server", responses((status = 200, description = "Alive", body = Health)))]
async fn health() -> axum::Json<Health> {
    axum::Json(Health { status: "ok" })
}

/// May new requests be sent here? Yes once the bases are loaded, until the server drains or an engine stops.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "server",
    responses(
        (status = 200, description = "Loaded and taking requests", body = Health),
        (status = 503, description = "`loading`, `draining`, or `unavailable`: the engine of a base has stopped", body = ErrorBody),
    )
)]
async fn ready(State(state): State<AppState>) -> Response {
    if state.draining() {
        return ApiError::new(Code::Draining, "the server is draining and takes no new requests").into_response();
    }
    match state.bases.iter().find(|base| !base.engine.takes_requests()) {
        None => axum::Json(Health { status: "ok" }).into_response(),
        Some(base) => {
            let message = format!("the engine of base {} has stopped; the server must be started again", base.name());
            ApiError::new(Code::Unavailable, message).into_response()
        }
    }
}
