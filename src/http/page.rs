//! Lists, a page at a time.

use axum::extract::FromRequestParts;
use axum::extract::rejection::QueryRejection;
use axum::http::request;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiError;

/// One page of things in order.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct List<T> {
    /// Always `list`.
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<T>,
    /// Whether there are further ones after the last of these.
    pub has_more: bool,
}

impl<T> List<T> {
    /// A page.
    pub fn new(data: Vec<T>, has_more: bool) -> Self {
        Self { object: "list", data, has_more }
    }
}

impl<T> List<T> {
    /// The page of `all` that comes after the thing whose key is `page.after`.
    pub fn page(all: Vec<T>, page: &Page, key: impl Fn(&T) -> String) -> Result<Self, ApiError> {
        let from = match &page.after {
            None => 0,
            Some(after) => {
                1 + all.iter().position(|thing| key(thing) == *after).ok_or_else(|| {
                    ApiError::validation("after", format!("after must be on the list, given {after:?}"))
                })?
            }
        };
        let has_more = all.len() - from > page.limit;
        Ok(Self::new(all.into_iter().skip(from).take(page.limit).collect(), has_more))
    }
}

/// Which page.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Most things on it, from 1 to 1000.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: usize,
    /// The id of the last thing on the page before.
    pub after: Option<String>,
}

const MOST: usize = 1000;

fn default_limit() -> usize {
    100
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::<Self>::from_request_parts(parts, state).await;
        let axum::extract::Query(page) = query.map_err(|rejection: QueryRejection| {
            let text = rejection.body_text();
            let text = text.rsplit("query string: ").next().unwrap_or_default().to_owned();
            ApiError::validation(text.split(':').next().unwrap_or_default(), format!("query parameters: {text}"))
        })?;
        if !(1..=MOST).contains(&page.limit) {
            let message = format!("limit must be from 1 to {MOST}, given {}", page.limit);
            return Err(ApiError::validation("limit", message));
        }
        Ok(page)
    }
}
