//! Which base and which adapter version a request means. Resolved once, pinned until the last token.

use std::sync::Arc;

use crate::adapter::{AdapterName, AdapterRef, Lease, TaskKind};
use crate::engine::EngineError;
use crate::http::{ApiError, AppState, Base, Caller, Code};

/// A base, and the adapter version that plays on it.
#[derive(Clone)]
pub struct Target {
    pub base: Arc<Base>,
    pub adapter: Option<Pinned>,
}

/// An adapter version that cannot go away.
#[derive(Clone)]
pub struct Pinned {
    pub name: AdapterName,
    pub version: u32,
    pub lease: Lease,
}

impl Target {
    /// Finds what `adapter_id` and `base` mean. Blocks: the adapter may have to be loaded.
    pub fn resolve(
        state: &AppState,
        caller: &Caller,
        adapter_id: Option<&str>,
        base: Option<&str>,
    ) -> Result<Self, ApiError> {
        let Some(adapter_id) = adapter_id else {
            let base = match base {
                Some(name) => state.bases.find(name)?,
                None => state.bases.only()?,
            };
            return Ok(Self { base: base.clone(), adapter: None });
        };
        let at = |error: crate::adapter::AdapterError| ApiError::from(error).at("adapter_id");
        let reference: AdapterRef = adapter_id.parse().map_err(at)?;
        if !caller.sees(&reference.name) {
            return Err(
                ApiError::new(Code::AdapterNotFound, format!("adapter {reference} does not exist")).at("adapter_id")
            );
        }
        let lease = state.registry.lease(&reference).map_err(at)?;
        let version =
            lease.version().ok_or_else(|| ApiError::internal("a lease of the registry without its version"))?;
        let found = state.bases.find(&lease.base).map_err(ApiError::internal)?;
        if let Some(name) = base
            && state.bases.find(name)?.name() != found.name()
        {
            let message = format!("adapter {reference} plays on base {}, given base {name:?}", found.name());
            return Err(ApiError::validation("base", message));
        }
        Ok(Self { base: found.clone(), adapter: Some(Pinned { name: reference.name, version, lease }) })
    }

    /// The adapter's lease, for the engine.
    pub fn lease(&self) -> Option<&Lease> {
        self.adapter.as_ref().map(|adapter| &adapter.lease)
    }

    /// Why an answer's events ended before the answer did: the request came when the engine was already on its way out.
    pub fn cut_off(&self) -> EngineError {
        match self.base.engine.takes_requests() {
            true => EngineError::Step("the event stream ended without Done".into()),
            false => EngineError::Draining,
        }
    }

    /// 422 unless it generates.
    pub fn require_generation(&self) -> Result<(), ApiError> {
        match &self.adapter {
            Some(adapter) if adapter.lease.task == TaskKind::Classify => {
                let message = format!("adapter {} classifies; ask it through POST /v1/classify", adapter.name);
                Err(ApiError::validation("adapter_id", message))
            }
            _ if !self.base.sites().causal => {
                let message = format!(
                    "base {} is an encoder and does not generate; name an adapter with a head and ask POST /v1/classify",
                    self.base.name()
                );
                Err(ApiError::validation("base", message))
            }
            _ => Ok(()),
        }
    }

    /// 422 unless it classifies; the lease of the adapter that does.
    pub fn require_head(&self) -> Result<&Lease, ApiError> {
        let Some(adapter) = &self.adapter else {
            let message = format!(
                "base {} has no labels of its own; adapter_id must name an adapter with a head",
                self.base.name()
            );
            return Err(ApiError::validation("adapter_id", message));
        };
        if adapter.lease.head.is_none() {
            let message = format!("adapter {} generates text; ask it through POST /v1/generate", adapter.name);
            return Err(ApiError::validation("adapter_id", message));
        }
        Ok(&adapter.lease)
    }
}
