//! The bases that this server holds, as requests see them.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::adapter::{GenerationDefaults, SiteMap};
use crate::engine::Engine;
use crate::text::Tokenizer;

use super::{ApiError, Code};

/// A base model and the engine that runs it.
pub struct Base {
    pub info: BaseInfo,
    pub engine: Engine,
    /// From generation_config.json (and config.json for the end of text).
    pub generation: GenerationDefaults,
}

/// A base as `GET /v1/bases` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct BaseInfo {
    pub name: String,
    /// `model_type` of config.json.
    #[schema(example = "llama")]
    pub family: String,
    /// Whether it generates (decoders) or only classifies (encoders).
    pub causal: bool,
    pub layers: usize,
    pub hidden: usize,
    pub vocab: usize,
    /// Longest sequence in tokens, virtual tokens included.
    pub context: usize,
    #[schema(example = "bf16")]
    pub dtype: String,
    #[schema(example = "cpu")]
    pub device: String,
    pub parameters: usize,
    /// Bytes of its weights.
    pub bytes: usize,
    /// Further values of `base_model_name_or_path` that mean this base.
    pub aliases: Vec<String>,
}

impl BaseInfo {
    /// Describes a base by its shape.
    pub fn new(
        sites: &SiteMap,
        dtype: impl Into<String>,
        device: impl Into<String>,
        parameters: usize,
        bytes: usize,
    ) -> Self {
        Self {
            name: sites.base.clone(),
            family: sites.family.clone(),
            causal: sites.causal,
            layers: sites.layers,
            hidden: sites.hidden,
            vocab: sites.vocab,
            context: sites.context,
            dtype: dtype.into(),
            device: device.into(),
            parameters,
            bytes,
            aliases: sites.aliases.clone(),
        }
    }
}

impl Base {
    /// Its name in requests.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Its shape.
    pub fn sites(&self) -> &Arc<SiteMap> {
        self.engine.sites()
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.engine.tokenizer()
    }
}

/// All bases, in the order of the configuration.
pub struct Bases(Vec<Arc<Base>>);

impl Bases {
    /// At least one base.
    pub fn new(bases: Vec<Base>) -> Self {
        Self(bases.into_iter().map(Arc::new).collect())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Base>> {
        self.0.iter()
    }

    /// The base that `name` (or an alias) means; 404 `base_not_found`.
    pub fn find(&self, name: &str) -> Result<&Arc<Base>, ApiError> {
        let found = self.0.iter().find(|base| base.name() == name);
        let found = found.or_else(|| self.0.iter().find(|base| base.sites().answers_to(name)));
        found.ok_or_else(|| {
            let message = format!("base {name:?} does not exist; there are: {}", self.names());
            ApiError::new(Code::BaseNotFound, message).at("base")
        })
    }

    /// The base of a request that names none: the only one, else 422.
    pub fn only(&self) -> Result<&Arc<Base>, ApiError> {
        match self.0.as_slice() {
            [base] => Ok(base),
            _ => Err(ApiError::validation("base", format!("base is needed, there are several: {}", self.names()))),
        }
    }

    fn names(&self) -> String {
        self.0.iter().map(|base| base.name()).collect::<Vec<_>>().join(", ")
    }
}
