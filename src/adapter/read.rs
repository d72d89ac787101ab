//! From files to an [`Adapter`]: exact, or refused by name.

use std::sync::Arc;

use super::{Adapter, AdapterError, Package, SiteMap};

/// What an upload may be.
#[derive(Clone, Debug)]
pub struct ReadLimits {
    pub max_rank: usize,
}

impl Adapter {
    /// Reads a package against the base it names.
    pub fn read(_package: &Package, _bases: &[Arc<SiteMap>], _limits: &ReadLimits) -> Result<Adapter, AdapterError> {
        todo!()
    }
}
