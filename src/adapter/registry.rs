//! Names, versions and leases of adapters over a store.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::{
    AdapterError, AdapterName, AdapterRef, Digest, Kind, Lease, Metadata, Package, ReadLimits, SiteMap, TaskKind,
};

/// What the registry may use.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Folder with hand-placed adapters; what the server writes goes to `.versions/` in it.
    pub store: PathBuf,
    /// Most bytes of adapters kept in host memory; unleased ones beyond it go back to the store.
    pub host_bytes: u64,
    /// Old versions kept per name.
    pub keep_versions: usize,
    pub limits: ReadLimits,
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

/// All adapters of this server. Calls block on disk: async callers use `spawn_blocking`.
pub struct AdapterRegistry {}

impl AdapterRegistry {
    /// Opens a store and finds what is in it. A version that cannot be read is logged and left alone.
    pub fn open(_options: RegistryOptions, _bases: Vec<Arc<SiteMap>>) -> Result<Self, AdapterError> {
        todo!()
    }

    /// Resolves a reference once and pins what it means; loads it from the store if it is not resident (once, however many ask).
    pub fn lease(&self, _reference: &AdapterRef) -> Result<Lease, AdapterError> {
        todo!()
    }

    /// Checks, stores and publishes a package as the next version of `name`.
    pub fn publish(
        &self,
        _name: &AdapterName,
        _package: Package,
        _condition: PublishIf,
    ) -> Result<Published, AdapterError> {
        todo!()
    }

    /// Publishes the current version with other metadata (fields that are set replace the old).
    pub fn patch(
        &self,
        _name: &AdapterName,
        _change: Metadata,
        _condition: PublishIf,
    ) -> Result<Published, AdapterError> {
        todo!()
    }

    /// Current versions in order of name, after `after`, at most `limit`; and whether there are more.
    pub fn list(&self, _after: Option<&str>, _limit: usize) -> (Vec<AdapterInfo>, bool) {
        todo!()
    }

    /// One version.
    pub fn show(&self, _reference: &AdapterRef) -> Result<AdapterInfo, AdapterError> {
        todo!()
    }

    /// All kept versions, newest first.
    pub fn versions(&self, _name: &AdapterName) -> Result<Vec<AdapterInfo>, AdapterError> {
        todo!()
    }

    /// Points the name to an older version.
    pub fn rollback(&self, _name: &AdapterName, _version: u32) -> Result<AdapterInfo, AdapterError> {
        todo!()
    }

    /// Forgets a name; versions in use live until their last lease ends.
    pub fn delete(&self, _name: &AdapterName, _condition: PublishIf) -> Result<(), AdapterError> {
        todo!()
    }

    /// A stored file of a version.
    pub fn file(&self, _reference: &AdapterRef, _file: &str) -> Result<Vec<u8>, AdapterError> {
        todo!()
    }

    /// Keeps the current version resident (and loads it), or no longer.
    pub fn pin(&self, _name: &AdapterName, _pinned: bool) -> Result<AdapterInfo, AdapterError> {
        todo!()
    }
}
