//! What lists show of an adapter, so that they need not load it.

use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Kind, TaskKind};

/// The part of an adapter's description that only its tensors and its base can tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub base: String,
    pub kind: Kind,
    pub task: TaskKind,
    pub labels: Vec<String>,
    pub rank: usize,
    pub parameters: usize,
    pub bytes: usize,
    pub description: Option<String>,
}

impl Summary {
    /// The summary of an adapter in memory.
    pub fn of(adapter: &Adapter) -> Self {
        Self {
            base: adapter.base.clone(),
            kind: adapter.kind,
            task: adapter.task,
            labels: adapter.head.as_ref().map_or_else(Vec::new, |head| head.labels.clone()),
            rank: adapter.rank,
            parameters: adapter.parameters(),
            bytes: adapter.bytes(),
            description: adapter.description.clone(),
        }
    }
}
