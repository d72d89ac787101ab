//! Around every request: its id, its span, its line in the metrics.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use uuid::Uuid;

use super::measure::{self, AdapterLabel};

/// The id of a request, in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_ID: usize = 128;

/// Takes or makes the request's id, runs it in a span of its own, and counts it.
pub async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request.headers().get(REQUEST_ID).filter(|id| acceptable(id)).cloned();
    let id = id.unwrap_or_else(|| {
        HeaderValue::from_str(&Uuid::now_v7().to_string()).unwrap_or_else(|_| HeaderValue::from_static("none"))
    });
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    // What a client may invent as a method has no place in a label.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
        _ => "other",
    }
    .to_owned();
    let key = tracing::field::Empty;
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), %method, route, key);

    let mut response = async {
        let response = next.run(request).await;
        tracing::debug!(status = response.status().as_u16(), took = ?started.elapsed(), "answered");
        response
    }
    .instrument(span)
    .await;
    let label = response.extensions_mut().remove::<AdapterLabel>();
    measure::request(&route, &method, response.status().as_u16(), label.as_ref(), started.elapsed());
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// A client's id is kept when it is short and cannot break a log line.
fn acceptable(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    !bytes.is_empty() && bytes.len() <= LONGEST_ID && bytes.iter().all(u8::is_ascii_graphic)
}
