//! `POST /v1/adapters`: a new adapter, or a new version of one.

use axum::body::HttpBody;
use axum::extract::multipart::Multipart;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::adapter::{AdapterInfo, AdapterName, Metadata};
use crate::http::auth::{May, Write};
use crate::http::json::{self, is_json};
use crate::http::openapi::WriteErrors;
use crate::http::uploads::Admission;
use crate::http::{ApiError, AppState, Code};

use super::upload::{Files, Upload, is_archive, package};
use super::{conditions, source, tagged};

/// The routes of this file.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(publish_adapter))
}

/// An adapter that the server fetches itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishFromSource {
    pub id: String,
    /// `file:///folder`, `hf://org/repo@rev` or `s3://bucket/prefix`, under a root that the operator allowed.
    #[schema(example = "file:///srv/adapters/joke")]
    pub source: String,
    #[serde(default)]
    pub metadata: Option<Metadata>,
}

/// The multipart form.
#[derive(ToSchema)]
#[allow(dead_code, reason = "for the document; parts are read as they come")]
struct PublishForm {
    id: AdapterName,
    /// The adapter's files (`adapter_config.json` and `adapter_model.safetensors`, or `prompt.json` and
    /// `prompt_provider.bin`), or one `.zip` or `.tar.gz` of the folder. Other files of the folder are ignored.
    #[schema(value_type = Vec<String>, format = Binary)]
    files: Vec<Vec<u8>>,
    metadata: Option<Metadata>,
}

/// What a request wants published.
enum Wanted {
    Upload(Upload, Admission),
    Source(PublishFromSource),
}

impl FromRequest<AppState> for Wanted {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let content_type =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content_type.starts_with("multipart/form-data") {
            // Before anything of it is read: who finds no room waits with the body still at the client.
            let admission = state.uploads.admit(request.body().size_hint().upper()).await?;
            let form = Multipart::from_request(request, state).await;
            let form = form.map_err(|rejection| ApiError::new(Code::Malformed, rejection.body_text()))?;
            return Ok(Self::Upload(Upload::read(form).await?, admission));
        }
        if is_json(request.headers()) {
            return json::parse(&json::read(request).await?).map(Self::Source);
        }
        let message = "an adapter is sent as multipart/form-data (id, files, metadata), or as application/json (id, source, metadata)";
        Err(ApiError::new(Code::UnsupportedMediaType, message))
    }
}

impl Wanted {
    fn id(&self) -> &str {
        match self {
            Self::Upload(upload, _) => &upload.id,
            Self::Source(wanted) => &wanted.id,
        }
    }

    /// The files, in memory, with the right to have them there.
    async fn files(self, state: &AppState) -> Result<(Files, Metadata, Admission), ApiError> {
        match self {
            Self::Upload(upload, admission) => Ok((upload.files, upload.metadata, admission)),
            Self::Source(PublishFromSource { source, metadata, .. }) => {
                let found = state.blocking(move |state| source::find(state, &source)).await?;
                let admission = state.uploads.admit(Some(found.bytes)).await?;
                let files = state.blocking(move |_| found.read()).await?;
                Ok((files, metadata.unwrap_or_default(), admission))
            }
        }
    }
}

/// Publish an adapter: under a new name, or as the next version of one that exists.
///
/// Running requests keep the version they started with. What cannot be applied exactly is refused by name.
#[utoipa::path(
    post,
    path = "/v1/adapters",
    tag = "adapters",
    params(
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if the name is not taken"),
        ("If-Match" = Option<String>, Header, description = "`\"<digest>\"`: only if this is the current version"),
    ),
    request_body(content((PublishForm = "multipart/form-data"), (PublishFromSource = "application/json"))),
    responses(
        (status = 200, description = "The same content under the same name: the version that is there", body = AdapterInfo, headers(("ETag" = String))),
        (status = 201, description = "A new version", body = AdapterInfo, headers(("ETag" = String), ("Location" = String))),
        WriteErrors,
    )
)]
async fn publish_adapter(
    caller: May<Write>,
    State(state): State<AppState>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let wanted = Wanted::from_request(request, &state).await?;
    let name = super::name(&caller, wanted.id())?;
    let location = HeaderValue::from_str(&format!("/v1/adapters/{name}")).map_err(ApiError::internal)?;
    let (files, metadata, admission) = wanted.files(&state).await?;
    let turn = state.uploads.turn().await?;
    let published = state
        .blocking(move |state| {
            let condition = conditions::publication(&headers, &name, &state.registry)?;
            let unpacked = files.iter().any(|(name, _)| is_archive(name));
            let package = package(files, metadata, state.config.limits.body_bytes.0)?;
            // What an archive unpacked to is more than was admitted: the turn ends when it is stored.
            let turn = unpacked.then_some(turn);
            let published = state.registry.publish(&name, package, condition)?;
            drop((turn, admission));
            Ok(published)
        })
        .await?;
    let status = if published.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = tagged(status, published.info);
    if published.created {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}
