//! `/v1/adapters`: publish, look at, change and delete adapters.

mod conditions;
mod publish;
mod source;
mod upload;
mod versions;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::adapter::{AdapterInfo, AdapterName, AdapterRef, MetadataChange};

use super::auth::{May, Read, Write};
use super::openapi::{ReadErrors, WriteErrors};
use super::{ApiError, AppState, Caller, Json, List, Page, Path};

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .merge(publish::routes())
        .routes(routes!(list_adapters))
        .routes(routes!(show_adapter, patch_adapter, delete_adapter))
        .merge(versions::routes())
}

/// An adapter with its digest as `ETag`.
fn tagged(status: StatusCode, info: AdapterInfo) -> Response {
    let etag = etag(&info);
    let mut response = (status, axum::Json(info)).into_response();
    response.headers_mut().insert(header::ETAG, etag);
    response
}

fn etag(info: &AdapterInfo) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{}\"", info.digest)).unwrap_or(HeaderValue::from_static("\"\""))
}

/// The name in a path, if the caller may know of it.
fn name(caller: &Caller, id: &str) -> Result<AdapterName, ApiError> {
    let name: AdapterName = id.parse().map_err(|error| ApiError::from(error).at("id"))?;
    caller.require_sight(&name)?;
    Ok(name)
}

/// The name and version in a path, if the caller may know of it.
fn reference(caller: &Caller, id: &str) -> Result<AdapterRef, ApiError> {
    let reference: AdapterRef = id.parse().map_err(|error| ApiError::from(error).at("id"))?;
    caller.require_sight(&reference.name)?;
    Ok(reference)
}

/// List adapters in order of name, each as its current version.
#[utoipa::path(
    get,
    path = "/v1/adapters",
    tag = "adapters",
    params(Page),
    responses((status = 200, description = "Adapters", body = List<AdapterInfo>), ReadErrors)
)]
async fn list_adapters(
    caller: May<Read>,
    State(state): State<AppState>,
    page: Page,
) -> Result<axum::Json<List<AdapterInfo>>, ApiError> {
    let list = state.blocking(move |state| {
        let mut data = Vec::new();
        let mut after = page.after;
        // A key that sees few of many: further pages are looked through until this one is full.
        loop {
            let (infos, more) = state.registry.list(after.as_deref(), page.limit);
            after = infos.last().map(|info| info.id.to_string());
            for info in infos.into_iter().filter(|info| caller.sees(&info.id)) {
                if data.len() == page.limit {
                    return Ok(List::new(data, true));
                }
                data.push(info);
            }
            if !more || after.is_none() {
                return Ok(List::new(data, false));
            }
            if data.len() == page.limit && caller.sees_everything() {
                return Ok(List::new(data, true));
            }
        }
    });
    Ok(axum::Json(list.await?))
}

/// Show an adapter, or one of its versions.
#[utoipa::path(
    get,
    path = "/v1/adapters/{id}",
    tag = "adapters",
    params(
        ("id" = String, Path, description = "`name`, `name@3` or `name@sha256:<hex>`"),
        ("If-None-Match" = Option<String>, Header, description = "`\"<digest>\"`: answered with 304 while it is still the current one"),
    ),
    responses(
        (status = 200, description = "The adapter; `ETag` is its digest", body = AdapterInfo, headers(("ETag" = String))),
        (status = 304, description = "Still the version in If-None-Match"),
        ReadErrors,
    )
)]
async fn show_adapter(
    caller: May<Read>,
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let reference = reference(&caller, &id)?;
    let info = state.blocking(move |state| Ok(state.registry.show(&reference)?)).await?;
    if conditions::names_digest(&headers, header::IF_NONE_MATCH, &info.digest) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag(&info))]).into_response());
    }
    Ok(tagged(StatusCode::OK, info))
}

/// Change an adapter's metadata: a new version with the same files. Fields that are given replace the old ones, null clears one.
#[utoipa::path(
    patch,
    path = "/v1/adapters/{id}",
    tag = "adapters",
    params(
        ("id" = AdapterName, Path),
        ("If-Match" = Option<String>, Header, description = "`\"<digest>\"` that must be the current one"),
    ),
    request_body = MetadataChange,
    responses((status = 200, description = "The new version", body = AdapterInfo, headers(("ETag" = String))), WriteErrors)
)]
async fn patch_adapter(
    caller: May<Write>,
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(change): Json<MetadataChange>,
) -> Result<Response, ApiError> {
    let name = name(&caller, &id)?;
    let published = state.blocking(move |state| {
        let condition = conditions::change(&headers, &name, &state.registry)?;
        Ok(state.registry.patch(&name, change, condition)?)
    });
    Ok(tagged(StatusCode::OK, published.await?.info))
}

/// Delete an adapter. Versions in use live until their last request ends.
#[utoipa::path(
    delete,
    path = "/v1/adapters/{id}",
    tag = "adapters",
    params(
        ("id" = AdapterName, Path),
        ("If-Match" = Option<String>, Header, description = "`\"<digest>\"` that must be the current one"),
    ),
    responses((status = 204, description = "Gone"), WriteErrors)
)]
async fn delete_adapter(
    caller: May<Write>,
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let name = name(&caller, &id)?;
    let deleted = state.blocking(move |state| {
        let condition = conditions::change(&headers, &name, &state.registry)?;
        Ok(state.registry.delete(&name, condition)?)
    });
    deleted.await?;
    Ok(StatusCode::NO_CONTENT)
}
