//! Uploaded archives, unpacked in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::AdapterError;

/// The adapter files in a `.zip` or `.tar.gz`; one top folder is allowed, other files are ignored. Never unpacks more than `max_bytes`.
pub fn unpack(_archive: &[u8], _max_bytes: u64) -> Result<BTreeMap<String, Arc<[u8]>>, AdapterError> {
    todo!()
}
