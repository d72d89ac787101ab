//! One load, however many wait for it.

use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::adapter::{Adapter, AdapterError};

type Outcome = Result<Arc<Adapter>, AdapterError>;

/// A load under way.
#[derive(Default)]
pub struct Flight {
    outcome: Mutex<Option<Outcome>>,
    landed: Condvar,
}

impl Flight {
    /// Hands the outcome to all who wait.
    pub fn land(&self, outcome: Outcome) {
        *self.outcome.lock() = Some(outcome);
        self.landed.notify_all();
    }

    /// Waits for the outcome.
    pub fn wait(&self) -> Outcome {
        let mut outcome = self.outcome.lock();
        loop {
            match &*outcome {
                Some(Ok(adapter)) => return Ok(adapter.clone()),
                Some(Err(error)) => return Err(twin(error)),
                None => self.landed.wait(&mut outcome),
            }
        }
    }
}

/// The same error once more, for another asker. Sources of store errors become text.
pub fn twin(error: &AdapterError) -> AdapterError {
    match error {
        AdapterError::Name(text) => AdapterError::Name(text.clone()),
        AdapterError::Reference(text) => AdapterError::Reference(text.clone()),
        AdapterError::NotFound(text) => AdapterError::NotFound(text.clone()),
        AdapterError::Conflict { name, current } => AdapterError::Conflict { name: name.clone(), current: *current },
        AdapterError::Unsupported(text) => AdapterError::Unsupported(text.clone()),
        AdapterError::Invalid(text) => AdapterError::Invalid(text.clone()),
        AdapterError::TooLarge(text) => AdapterError::TooLarge(text.clone()),
        AdapterError::Store(error) => AdapterError::Store(io::Error::new(error.kind(), error.to_string())),
        AdapterError::Tensor(error) => AdapterError::Tensor(candle_core::Error::Msg(error.to_string())),
    }
}
