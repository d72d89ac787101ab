//! What is answered before the bases are loaded.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

use super::observe::observe;
use super::{ApiError, Code};

/// A server that is alive but not ready until `loaded` is set, and then is what was set.
pub fn while_loading(loaded: Arc<OnceLock<Router>>) -> Router {
    let loading = Router::new().fallback(not_yet).layer(from_fn(observe));
    Router::new().fallback(move |request: Request| {
        let router = loaded.get().unwrap_or(&loading).clone();
        router.oneshot(request)
    })
}

async fn not_yet(uri: Uri) -> Response {
    match uri.path() {
        "/health" => axum::Json(super::health::Health { status: "ok" }).into_response(),
        _ => ApiError::new(Code::Loading, "the server is loading its bases; try again soon").into_response(),
    }
}
