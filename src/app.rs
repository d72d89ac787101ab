//! Wires the modules together; owns the order of start-up and shutdown.

mod base;
mod generation_config;
mod run;
mod signal;
mod welcome;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

pub use base::{Loaded, load_base, load_model, sites_with_tokenizer};
pub use run::serve;

use crate::adapter::{AdapterRegistry, ReadLimits, RegistryOptions};
use crate::config::{AdaptersConfig, Config, DatabaseConfig};
use crate::engine::Engine;
use crate::http::{AppState, Bases, Keys, accept_adapter, describe_metrics};
use crate::telemetry;

/// Loads all that requests need. Blocks, for minutes with a large base.
pub fn load(config: Config, keys: Keys) -> Result<AppState> {
    create_data_folder(&config.database)?;
    let (bases, registry) = load_bases(&config)?;
    let metrics = telemetry::metrics();
    describe_metrics();
    Ok(AppState::new(config, bases, Arc::new(registry), keys, metrics))
}

/// What a server has behind its routes.
pub struct Ensemble {
    /// One for each base, in the order of the configuration.
    pub engines: Vec<Engine>,
    pub registry: Arc<AdapterRegistry>,
}

/// Loads bases and adapters as a server does, to be used without HTTP.
pub fn load_ensemble(config: &Config) -> Result<Ensemble> {
    let (bases, registry) = load_bases(config)?;
    Ok(Ensemble { engines: bases.iter().map(|base| base.engine.clone()).collect(), registry: Arc::new(registry) })
}

fn load_bases(config: &Config) -> Result<(Bases, AdapterRegistry)> {
    start_threads(config.server.threads)?;
    // One lock: engines on one device take turns.
    let turn = Arc::default();
    let adapter_bytes = usize::try_from(config.adapters.device_bytes.0).unwrap_or(usize::MAX);
    let load = |base| load_base(base, &config.scheduler, adapter_bytes, &turn);
    let bases = config.bases.iter().map(load).collect::<Result<Vec<_>>>()?;
    let bases = Bases::new(bases);
    let registry = open_registry(&config.adapters, &bases)?;
    Ok((bases, registry))
}

/// One pool for all of the process's arithmetic. 0: as many threads as there are cores.
pub fn start_threads(threads: usize) -> Result<()> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("compute-{n}"));
    // Already started: somebody in this process computed before (tests).
    if pool.build_global().is_ok() {
        tracing::info!(threads, "compute threads started");
    }
    Ok(())
}

/// Threads of the pool, once something is loaded.
pub fn compute_threads() -> usize {
    rayon::current_num_threads()
}

fn open_registry(config: &AdaptersConfig, bases: &Bases) -> Result<AdapterRegistry> {
    let store = PathBuf::from(&config.store);
    create_folder(&store, "adapters.store")?;
    let options = RegistryOptions {
        store,
        host_bytes: config.host_bytes.0,
        keep_versions: config.keep_versions,
        limits: ReadLimits { max_rank: config.max_rank },
        accept: accept_adapter,
    };
    let sites = bases.iter().map(|base| sites_with_tokenizer(base.sites(), base.tokenizer().clone())).collect();
    AdapterRegistry::open(options, sites).with_context(|| format!("adapters.store {:?} cannot be opened", config.store))
}

fn create_data_folder(config: &DatabaseConfig) -> Result<()> {
    let Some(file) = config.url.strip_prefix("sqlite://") else { return Ok(()) };
    match Path::new(file).parent() {
        Some(folder) if !folder.as_os_str().is_empty() => create_folder(folder, "database.url"),
        _ => Ok(()),
    }
}

fn create_folder(folder: &Path, key: &str) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{key}: the folder {} cannot be created", folder.display()))
}
