//! `GET /v1/bases`.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{May, Read};
use super::openapi::ReadErrors;
use super::{ApiError, AppState, BaseInfo, List, Page};

/// The routes of this file.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list_bases))
}

/// The bases that adapters can play on.
#[utoipa::path(
    get,
    path = "/v1/bases",
    tag = "server",
    params(Page),
    responses((status = 200, description = "Bases in order of the configuration; `after` is a name", body = List<BaseInfo>), ReadErrors)
)]
async fn list_bases(
    _caller: May<Read>,
    State(state): State<AppState>,
    page: Page,
) -> Result<axum::Json<List<BaseInfo>>, ApiError> {
    let all = state.bases.iter().map(|base| base.info.clone()).collect();
    Ok(axum::Json(List::page(all, &page, |base: &BaseInfo| base.name.clone())?))
}
