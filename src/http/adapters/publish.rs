//! `POST /v1/adapters`: a new adapter, or a new version of one.

use axum::body::Bytes;
use axum::extract::multipart::Multipart;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::adapter::{AdapterInfo, AdapterName, Metadata, Package};
use crate::http::json::{is_json, parse, read_error};
use crate::http::openapi::WriteErrors;
use crate::http::{ApiError, AppState, Caller, Code, Scope};

use super::upload::Upload;
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
    pub metadata: Metadata,
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
    Upload(Upload),
    Source(PublishFromSource),
}

impl FromRequest<AppState> for Wanted {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let content_type =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content_type.starts_with("multipart/form-data") {
            let form = Multipart::from_request(request, state).await;
            let form = form.map_err(|rejection| ApiError::new(Code::Malformed, rejection.body_text()))?;
            return Upload::read(form).await.map(Self::Upload);
        }
        if is_json(request.headers()) {
            let bytes = Bytes::from_request(request, state).await.map_err(read_error)?;
            return parse(&bytes).map(Self::Source);
        }
        let message = "an adapter is sent as multipart/form-data (id, files, metadata), or as application/json (id, source, metadata)";
        Err(ApiError::new(Code::UnsupportedMediaType, message))
    }
}

impl Wanted {
    fn id(&self) -> &str {
        match self {
            Self::Upload(upload) => &upload.id,
            Self::Source(wanted) => &wanted.id,
        }
    }

    fn into_package(self, state: &AppState) -> Result<Package, ApiError> {
        match self {
            Self::Upload(upload) => upload.into_package(state.config.limits.body_bytes.0),
            Self::Source(wanted) => source::fetch(state, &wanted.source, wanted.metadata),
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
    caller: Caller,
    State(state): State<AppState>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    // Before the body is read: who may not write need not be heard.
    caller.require(Scope::Write)?;
    let wanted = Wanted::from_request(request, &state).await?;
    let name = super::name(&caller, wanted.id())?;
    let location = HeaderValue::from_str(&format!("/v1/adapters/{name}")).map_err(ApiError::internal)?;
    let published = state
        .blocking(move |state| {
            let condition = conditions::condition(&headers, &name, &state.registry)?;
            Ok(state.registry.publish(&name, wanted.into_package(state)?, condition)?)
        })
        .await?;
    let status = if published.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = tagged(status, published.info);
    if published.created {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}
