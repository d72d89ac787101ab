//! The cheap handle through which the rest of the server talks to an engine.

use std::sync::Arc;
use std::time::Instant;

use crate::adapter::{Lease, SiteMap};
use crate::model::BaseModel;
use crate::text::Tokenizer;

use super::{EngineError, Event, Parameters};

/// Limits of one engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Tokens computed per step.
    pub max_batch_tokens: usize,
    /// Sequences that run at once.
    pub max_running: usize,
    /// Requests that may wait; more are refused with [`EngineError::Overloaded`].
    pub max_waiting: usize,
    /// Bytes for keys and values.
    pub kv_bytes: usize,
}

/// What is to be computed.
#[derive(Clone, Debug)]
pub enum Work {
    Generate(Parameters),
    /// The adapter's head.
    Classify,
}

/// One input on its way into the engine.
pub struct Request {
    /// Token ids; `vocab + i` is virtual token `i` of the adapter. Leading virtual tokens are part of it.
    pub prompt: Vec<u32>,
    /// The adapter to apply, pinned until the request's last step is over.
    pub adapter: Option<Lease>,
    pub work: Work,
    /// Higher runs earlier.
    pub priority: i32,
    /// When the client stops waiting.
    pub deadline: Option<Instant>,
}

/// Counts for /metrics and health.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineStats {
    pub running: usize,
    pub waiting: usize,
    pub free_blocks: usize,
    pub total_blocks: usize,
    pub steps: u64,
}

/// The events of one request; dropping it cancels the request within one step.
pub struct EventStream {
    _private: (),
}

impl EventStream {
    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        todo!()
    }
}

/// A handle to a running engine; clones share it.
#[derive(Clone)]
pub struct Engine {
    _private: Arc<()>,
}

impl Engine {
    /// Starts the engine's thread.
    pub fn start(_model: Box<dyn BaseModel>, _tokenizer: Arc<Tokenizer>, _options: EngineOptions) -> Self {
        todo!()
    }

    /// Queues a request. Refuses what can never run (too long, too large) and what finds the queue full.
    pub fn submit(&self, _request: Request) -> Result<EventStream, EngineError> {
        todo!()
    }

    /// The shape of its base.
    pub fn sites(&self) -> &Arc<SiteMap> {
        todo!()
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        todo!()
    }

    /// A moment's counts.
    pub fn stats(&self) -> EngineStats {
        todo!()
    }

    /// Takes no new requests, lets running ones end, and stops the thread.
    pub async fn drain(&self) {
        todo!()
    }
}
