//! Names, versions and leases of adapters over a store.
//!
//! Two halves. [`Names`] are pointers: each is a small state, replaced as a whole after its record is on disk.
//! [`Artefacts`] are contents: one per digest, held by records, publications and leases; memory and files go with the
//! last holder. Nothing that many share is locked while a file is read or written or an adapter decoded.

mod artefact;
mod change;
mod flight;
mod loaders;
mod lookup;
mod metadata_change;
mod name;
mod names;
mod placed;
mod residency;
mod slot;

pub(super) use artefact::Artefact;
pub use artefact::Reader;
pub use metadata_change::MetadataChange;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use serde::Serialize;

use super::store::{Store, StoreLock};
use super::{Adapter, AdapterError, AdapterName, Digest, Kind, Package, ReadLimits, SiteMap, TaskKind};
use artefact::Artefacts;
use names::Names;

/// What the registry may use.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Folder with hand-placed adapters; what the server writes goes to `.versions/` in it.
    pub store: PathBuf,
    /// Most bytes of adapters kept in host memory; unleased ones beyond it go back to the store.
    pub host_bytes: u64,
    /// Old versions kept per name, besides the current one.
    pub keep_versions: usize,
    pub limits: ReadLimits,
    /// Judges what was read before it is published or served: what adapters bring for other modules (prompt format, settings).
    pub accept: fn(&Adapter) -> Result<(), AdapterError>,
}

/// What must hold for a publication to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishIf {
    /// `If-None-Match: *`: the name is not taken.
    Absent,
    Always,
    /// `If-Match: "<digest>"`: the name points to this digest now.
    Current(Digest),
}

/// Where a version's tensors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Residency {
    Device,
    Host,
    Store,
}

/// An adapter version as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AdapterInfo {
    pub id: AdapterName,
    pub version: u32,
    pub digest: Digest,
    pub base: String,
    pub kind: Kind,
    pub task: TaskKind,
    pub labels: Vec<String>,
    pub rank: usize,
    pub parameters: usize,
    pub bytes: usize,
    pub residency: Residency,
    pub pinned: bool,
    pub leases: usize,
    /// RFC 3339.
    pub created_at: jiff::Timestamp,
    pub description: Option<String>,
}

/// The outcome of a publication.
#[derive(Clone, Debug)]
pub struct Published {
    pub info: AdapterInfo,
    /// Whether a new version came to be (201) or the same bytes stood under the name already (200).
    pub created: bool,
}

/// A moment's figures, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RegistryStats {
    pub names: usize,
    /// Adapter versions in memory.
    pub resident: usize,
    /// Their bytes.
    pub resident_bytes: u64,
}

/// All adapters of this server. Calls block on disk: async callers use `spawn_blocking`.
pub struct AdapterRegistry {
    all: Arc<Artefacts>,
    names: Names,
    keep_versions: usize,
    sweeper: Option<JoinHandle<()>>,
    _lock: StoreLock,
}

impl AdapterRegistry {
    /// Opens a store and finds what is in it. A version that cannot be read is logged and left alone.
    pub fn open(options: RegistryOptions, bases: Vec<Arc<SiteMap>>) -> Result<Self, AdapterError> {
        let read_for = fingerprint(&bases, &options.limits);
        let limits = options.limits.clone();
        let accept = options.accept;
        let reader = Box::new(move |package: &Package, digest| {
            let adapter = Adapter::read_as(digest, package, &bases, &limits)?;
            accept(&adapter).map(|()| adapter)
        });
        Self::open_with(options, read_for, reader)
    }

    /// Opens a store whose packages are read by `reader`; `read_for` changes when it would read them differently.
    pub fn open_with(options: RegistryOptions, read_for: Digest, reader: Reader) -> Result<Self, AdapterError> {
        let (store, lock) = Store::open(&options.store).map_err(AdapterError::Store)?;
        let all = Artefacts::new(store, reader, read_for, options.host_bytes).map_err(AdapterError::Store)?;
        let all = Arc::new(all);
        let (names, named) = Names::read(all.clone()).map_err(AdapterError::Store)?;
        let named: Option<HashSet<Digest>> = named.map(HashSet::from_iter);
        all.store.clean(named.as_ref()).map_err(AdapterError::Store)?;
        names.look_again().map_err(AdapterError::Store)?;
        let sweeper = Some(start_sweeper(all.clone()).map_err(AdapterError::Store)?);
        Ok(Self { all, names, keep_versions: options.keep_versions, sweeper, _lock: lock })
    }
}

impl Drop for AdapterRegistry {
    fn drop(&mut self) {
        // From here on what is dropped is only forgotten, not removed: the records still name it.
        drop(self.all.sweeps.lock().take());
        if let Some(sweeper) = self.sweeper.take() {
            let _ = sweeper.join();
        }
    }
}

/// Removes the files of digests that nobody holds any more, on a thread of its own.
fn start_sweeper(all: Arc<Artefacts>) -> std::io::Result<JoinHandle<()>> {
    let (sender, receiver) = mpsc::channel();
    *all.sweeps.lock() = Some(sender);
    thread::Builder::new().name("adapter-sweeper".into()).spawn(move || {
        for digest in receiver {
            all.sweep(&digest);
        }
    })
}

/// Changes when the same package could be read as something else.
fn fingerprint(bases: &[Arc<SiteMap>], limits: &ReadLimits) -> Digest {
    let mut text = format!("1 {} {limits:?}", env!("CARGO_PKG_VERSION"));
    for b in bases {
        let shape = (
            b.layers,
            b.hidden,
            b.heads,
            b.kv_heads,
            b.head_dim,
            b.vocab,
            b.context,
            b.causal,
            b.tied,
            b.missing_pooler,
        );
        text.push_str(&format!("\n{:?} {:?} {:?} {shape:?}", b.base, b.aliases, b.family));
    }
    Digest::of(text.as_bytes())
}
