//! Path parameters, with errors in the shape of all others.

use axum::extract::FromRequestParts;
use axum::http::request;
use serde::de::DeserializeOwned;

use super::{ApiError, Code};

/// A route's parameters. What is not UTF-8 is 400.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection| ApiError::new(Code::Malformed, rejection.body_text()))
    }
}
