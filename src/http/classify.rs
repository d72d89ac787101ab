//! `POST /v1/classify`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::engine::Usage;

use super::auth::{Generate, May};
use super::inference::{Classification, ClassifyCall, Label, Scheduling};
use super::inputs::Inputs;
use super::measure::{self, AdapterLabel};
use super::openapi::InferenceErrors;
use super::{ApiError, AppState, Json};

/// The routes of this file.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(classify))
}

/// What to classify.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifyRequest {
    /// `name`, `name@3` or `name@sha256:<hex>`; it must have a head.
    #[schema(example = "toxicity")]
    #[serde(default)]
    pub adapter_id: Option<String>,
    /// If given, it must be the adapter's base.
    #[serde(default)]
    pub base: Option<String>,
    pub input: Inputs,
    /// Multi-label: labels over it are predicted. Default 0.5.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1, default = 0.5)]
    pub threshold: Option<f32>,
    /// Most labels to report; absent: all.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub top_k: Option<usize>,
    /// Keeps only so many tokens of a longer text: the first ones.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub truncate: Option<usize>,
    /// From -100 to 100; higher runs earlier. Default 0.
    #[serde(default)]
    pub priority: Option<i32>,
    /// When to give up, with 504.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub timeout_ms: Option<u64>,
}

/// The labels of all inputs.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ClassifyResponse {
    pub id: String,
    pub adapter_id: Option<String>,
    pub adapter_version: Option<u32>,
    pub base: String,
    /// In order of input.
    pub results: Vec<Labels>,
    pub usage: Usage,
}

/// The labels of one input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Labels {
    /// From the best to the worst.
    pub labels: Vec<Label>,
    /// Single-label: the best. Multi-label, and heads with one label: those over the threshold.
    pub predicted: Vec<String>,
}

/// Classify texts with an adapter's head.
///
/// Multi-label scores are sigmoids, single-label ones a softmax, a lone label's a sigmoid.
#[utoipa::path(
    post,
    path = "/v1/classify",
    tag = "inference",
    request_body = ClassifyRequest,
    responses((status = 200, description = "Labels", body = ClassifyResponse), InferenceErrors)
)]
async fn classify(
    caller: May<Generate>,
    State(state): State<AppState>,
    Json(request): Json<ClassifyRequest>,
) -> Result<Response, ApiError> {
    let call = ClassifyCall {
        adapter_id: request.adapter_id,
        base: request.base,
        prompts: request.input.into_prompts(),
        threshold: request.threshold.unwrap_or(0.5),
        top_k: request.top_k,
        truncate: request.truncate,
        scheduling: Scheduling::new(request.priority.unwrap_or_default(), request.timeout_ms)?,
    };
    let Classification { target, results, usage } = Classification::run(&state, &caller, call).await?;
    measure::tokens(&target, usage);
    let adapter = target.adapter.as_ref();
    let response = ClassifyResponse {
        id: format!("cls-{}", Uuid::now_v7().simple()),
        adapter_id: adapter.map(|adapter| adapter.name.to_string()),
        adapter_version: adapter.map(|adapter| adapter.version),
        base: target.base.name().to_owned(),
        results: results.into_iter().map(|(labels, predicted)| Labels { labels, predicted }).collect(),
        usage,
    };
    let mut response = axum::Json(response).into_response();
    response.extensions_mut().insert(AdapterLabel::of(&target));
    Ok(response)
}
