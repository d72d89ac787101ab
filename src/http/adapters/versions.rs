//! Below `/v1/adapters/{id}`: versions, rollback, files, pin.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::adapter::{AdapterInfo, AdapterName};
use crate::http::auth::{May, Read, Write};
use crate::http::openapi::{ReadErrors, WriteErrors};
use crate::http::{ApiError, AppState, Caller, Json, List, Page, Path};

use super::{conditions, name, reference, tagged};

/// The routes of this file.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list_versions))
        .routes(routes!(rollback_adapter))
        .routes(routes!(download_file))
        .routes(routes!(pin_adapter, unpin_adapter))
}

/// Which version to go back to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    #[schema(minimum = 1)]
    pub version: u32,
}

/// List an adapter's kept versions, the newest first.
#[utoipa::path(
    get,
    path = "/v1/adapters/{id}/versions",
    tag = "adapters",
    params(("id" = AdapterName, Path), Page),
    responses((status = 200, description = "Versions, newest first; `after` is a version number", body = List<AdapterInfo>), ReadErrors)
)]
async fn list_versions(
    caller: May<Read>,
    State(state): State<AppState>,
    Path(id): Path<String>,
    page: Page,
) -> Result<axum::Json<List<AdapterInfo>>, ApiError> {
    let name = name(&caller, &id)?;
    let versions = state.blocking(move |state| Ok(state.registry.versions(&name)?)).await?;
    Ok(axum::Json(List::page(versions, &page, |info: &AdapterInfo| info.version.to_string())?))
}

/// Point an adapter's name to an older version.
#[utoipa::path(
    post,
    path = "/v1/adapters/{id}/rollback",
    tag = "adapters",
    params(
        ("id" = AdapterName, Path),
        ("If-Match" = Option<String>, Header, description = "`\"<digest>\"` that must be the current one"),
    ),
    request_body = Rollback,
    responses((status = 200, description = "The version that is current now", body = AdapterInfo, headers(("ETag" = String))), WriteErrors)
)]
async fn rollback_adapter(
    caller: May<Write>,
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(Rollback { version }): Json<Rollback>,
) -> Result<Response, ApiError> {
    let name = name(&caller, &id)?;
    let info = state.blocking(move |state| {
        let condition = conditions::change(&headers, &name, &state.registry)?;
        Ok(state.registry.rollback(&name, version, condition)?)
    });
    let info = info.await?;
    Ok(tagged(StatusCode::OK, info))
}

/// Download a stored file of an adapter, in PEFT's layout.
#[utoipa::path(
    get,
    path = "/v1/adapters/{id}/files/{name}",
    tag = "adapters",
    params(
        ("id" = String, Path, description = "`name`, `name@3` or `name@sha256:<hex>`"),
        ("name" = String, Path, description = "e.g. `adapter_model.safetensors`"),
    ),
    responses((status = 200, description = "The file", content_type = "application/octet-stream"), ReadErrors)
)]
async fn download_file(
    caller: May<Read>,
    State(state): State<AppState>,
    Path((id, file)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let reference = reference(&caller, &id)?;
    let content_type = if file.ends_with(".json") { "application/json" } else { "application/octet-stream" };
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{}\"", file.replace(['"', '\\'], "")));
    let disposition = disposition.unwrap_or(HeaderValue::from_static("attachment"));
    let bytes = state.blocking(move |state| Ok(state.registry.file(&reference, &file)?)).await?;
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static(content_type)), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, bytes).into_response())
}

/// Load an adapter now and keep it in memory.
#[utoipa::path(
    put,
    path = "/v1/adapters/{id}/pin",
    tag = "adapters",
    params(("id" = AdapterName, Path)),
    responses((status = 200, description = "The adapter, pinned", body = AdapterInfo), WriteErrors)
)]
async fn pin_adapter(
    caller: May<Write>,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    pin(&caller, state, id, true).await
}

/// Let an adapter leave memory again when others need it.
#[utoipa::path(
    delete,
    path = "/v1/adapters/{id}/pin",
    tag = "adapters",
    params(("id" = AdapterName, Path)),
    responses((status = 200, description = "The adapter, no longer pinned", body = AdapterInfo), WriteErrors)
)]
async fn unpin_adapter(
    caller: May<Write>,
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    pin(&caller, state, id, false).await
}

async fn pin(caller: &Caller, state: AppState, id: String, pinned: bool) -> Result<Response, ApiError> {
    let name = name(caller, &id)?;
    let info = state.blocking(move |state| Ok(state.registry.pin(&name, pinned)?)).await?;
    Ok(tagged(StatusCode::OK, info))
}
