//! What every handler can reach.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics_exporter_prometheus::PrometheusHandle;

use crate::adapter::AdapterRegistry;
use crate::config::Config;

use super::uploads::Uploads;
use super::{ApiError, Bases, Keys};

/// The parts of the server that requests use; clones share them.
#[derive(Clone)]
pub struct AppState(Arc<Parts>);

/// What [`AppState`] shares.
pub struct Parts {
    pub config: Config,
    pub bases: Bases,
    pub registry: Arc<AdapterRegistry>,
    pub keys: Keys,
    pub metrics: PrometheusHandle,
    pub uploads: Uploads,
    draining: AtomicBool,
}

impl AppState {
    /// Brings the parts together.
    pub fn new(
        config: Config,
        bases: Bases,
        registry: Arc<AdapterRegistry>,
        keys: Keys,
        metrics: PrometheusHandle,
    ) -> Self {
        let uploads = Uploads::new(config.limits.body_bytes.0);
        Self(Arc::new(Parts { config, bases, registry, keys, metrics, uploads, draining: AtomicBool::new(false) }))
    }

    /// From now on new work is answered with 503 and /ready is not ok.
    pub fn start_draining(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    /// Whether the server is on its way out.
    pub fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Runs something that blocks (store, tokenizer) off the async threads.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let state = self.clone();
        let span = tracing::Span::current();
        let task = tokio::task::spawn_blocking(move || span.in_scope(|| work(&state)));
        task.await.unwrap_or_else(|panic| Err(ApiError::internal(panic)))
    }
}

impl std::ops::Deref for AppState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
