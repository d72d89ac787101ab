//! What is answered before the bases are loaded.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

use super::{ApiError, Code};

/// A server that is alive but not ready until `loaded` is set, and then is what was set.
pub fn while_loading(loaded: Arc<OnceLock<Router>>) -> Router {
    Router::new().fallback(move |request: Request| {
        let loaded = loaded.clone();
        async move {
            match loaded.get() {
                Some(router) => router.clone().oneshot(request).await.into_response(),
                None => not_yet(&request),
            }
        }
    })
}

fn not_yet(request: &Request) -> Response {
    match request.uri().path() {
        "/health" => axum::Json(super::health::Health { status: "ok" }).into_response(),
        _ => ApiError::new(Code::Loading, "the server is loading its bases; try again soon").into_response(),
    }
}
