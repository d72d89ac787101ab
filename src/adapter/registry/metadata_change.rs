//! What a client wants changed of an adapter's metadata.

use serde::{Deserialize, Deserializer};

use crate::adapter::{GenerationDefaults, Metadata, ProblemType, TaskKind};

/// A JSON merge patch of [`Metadata`]: a field that is absent stays, null clears it, anything else replaces it whole.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetadataChange {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub base: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<TaskKind>)]
    pub task: Option<Option<TaskKind>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    pub labels: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<ProblemType>)]
    pub problem_type: Option<Option<ProblemType>>,
    /// Text with `{fields}`, e.g. `"Question: {question}\nAnswer:"`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub prompt_format: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<GenerationDefaults>)]
    pub generation: Option<Option<GenerationDefaults>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub description: Option<Option<String>>,
}

/// Tells null from absent: only what is there gets here.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(d).map(Some)
}

impl MetadataChange {
    /// The metadata after the change.
    pub(super) fn apply(self, old: Metadata) -> Metadata {
        Metadata {
            base: self.base.unwrap_or(old.base),
            task: self.task.unwrap_or(old.task),
            labels: self.labels.unwrap_or(old.labels),
            problem_type: self.problem_type.unwrap_or(old.problem_type),
            prompt_format: self.prompt_format.unwrap_or(old.prompt_format),
            generation: self.generation.unwrap_or(old.generation),
            description: self.description.unwrap_or(old.description),
        }
    }
}
