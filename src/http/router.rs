//! All routes, and what stands around them.

use std::any::Any;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use super::observe::observe;
use super::{ApiError, AppState, Code, adapters, bases, classify, generate, health, metrics, openapi};

/// The one list of routes: the server and the OpenAPI document are both made from it.
fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::head())
        .merge(generate::routes())
        .merge(classify::routes())
        .merge(adapters::routes())
        .merge(bases::routes())
        .merge(health::routes())
        .merge(metrics::routes())
        .merge(openapi::routes())
}

/// The OpenAPI document.
pub fn document() -> OpenApi {
    routes().split_for_parts().1
}

/// The server, ready to answer.
pub fn router(state: AppState) -> Router {
    let (routes, document) = routes().split_for_parts();
    let limit = state.config.limits.body_bytes.as_usize();
    routes
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::Extension(openapi::Document::new(&document)))
        .layer(from_fn_with_state(state.clone(), refuse_while_draining))
        .layer(DefaultBodyLimit::max(limit))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(observe))
        .with_state(state)
}

async fn unknown_route(method: Method, uri: Uri) -> ApiError {
    let message = format!("there is no route {method} {}; GET /openapi.json lists them", uri.path());
    ApiError::new(Code::NotFound, message)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}; GET /openapi.json lists what it takes", uri.path());
    ApiError::new(Code::MethodNotAllowed, message)
}

/// 503 for new work on the way out; looking around is still allowed.
async fn refuse_while_draining(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if state.draining() && !request.method().is_safe() {
        return ApiError::new(
            Code::Draining,
            "the server is draining and takes no new requests; try another or try again",
        )
        .into_response();
    }
    next.run(request).await
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    ApiError::internal(format!("panic: {}", message.unwrap_or("of unknown cause"))).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn panics() {
        panic!("the secret cause")
    }

    #[tokio::test]
    async fn a_panic_is_500_in_the_shape_of_errors_without_its_cause() {
        let router: Router = Router::new().route("/", get(panics)).layer(CatchPanicLayer::custom(panicked));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = to_bytes(response.into_body(), 10_000).await.unwrap();
        let body: super::super::ErrorBody = serde_json::from_slice(&body).unwrap();
        assert_eq!((&*body.error.code, &*body.error.kind), ("internal", "server_error"));
        assert!(!body.error.message.contains("secret"));
    }
}
