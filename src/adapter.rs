//! The heart: reads, holds, swaps and applies adapters. Knows *sites*, never models or requests.
//!
//! A [`Package`] (files and metadata as uploaded) is read into an [`Adapter`] (tensors against the
//! [`SiteMap`] of its base). The [`AdapterRegistry`] names, versions and leases adapters.

pub mod apply;
pub mod archive;
mod base;
mod draft;
mod embedding;
mod error;
mod head;
mod id;
mod kinds;
mod lease;
mod package;
mod patch;
mod peft;
mod pieces;
mod prefix;
mod read;
mod registry;
mod resident;
mod same;
mod site;
mod store;
mod tensors;
mod torch;
mod virtual_tokens;

pub use embedding::EmbeddingPatch;
pub use error::AdapterError;
pub use head::{Head, ProblemType};
pub use id::{AdapterName, AdapterRef, Digest, Selector};
pub use kinds::dora::norms as row_norms;
pub use lease::{Lease, LeaseCount};
pub use package::{EarlyStopping, EosTokens, GenerationDefaults, Metadata, Package, TaskKind};
pub use patch::{LinearPatch, LowRank};
pub use prefix::KeyValuePrefix;
pub use read::ReadLimits;
pub use registry::{
    AdapterInfo, AdapterRegistry, MetadataChange, PublishIf, Published, Reader, RegistryOptions, RegistryStats,
    Residency,
};
pub use resident::{Adapter, Kind, OnDevice};
pub use site::{EmbeddingSite, Projection, Site, SiteEntry, SiteId, SiteMap, TokenCounter};
pub use virtual_tokens::VirtualTokens;
