//! Adapters that requests need on the device before they run.

use std::time::{Duration, Instant};

use crate::engine::group::Group;
use crate::engine::scheduler::UnitId;
use crate::model::{BaseModel, Called};

/// How long requests of lower rank may find their adapters on the device, or room for them, before one that found none.
const OVERTAKEN_AT_MOST: Duration = Duration::from_secs(1);

/// How many that found no room are called again for a plan: each is looked at closely.
const MOST_REFUSED: usize = 8;

/// The calls for adapters of a step's plan, in the order in which requests have their turn.
#[derive(Default)]
pub struct Calls {
    /// Whether somebody has waited for room for so long that nobody else with an adapter goes before it.
    overtaken: bool,
    /// How many found no room.
    refused: usize,
    /// Whose adapters cannot be brought.
    pub failed: Vec<(UnitId, candle_core::Error)>,
}

impl Calls {
    /// Whether a request's adapter is on the device; from then on it stays there until the request ends.
    pub fn call(&mut self, model: &mut dyn BaseModel, id: UnitId, group: &mut Group) -> bool {
        let Some(lease) = group.adapter.as_ref().filter(|_| group.held.is_none()) else { return true };
        if self.overtaken || self.refused >= MOST_REFUSED && group.refused.is_some() {
            return false;
        }
        match model.call(lease.adapter()) {
            Ok(Called::Here(held)) => group.held = Some(held),
            Ok(Called::Coming) => {}
            Ok(Called::NoRoom) => {
                self.refused += 1;
                self.overtaken |= group.refused.get_or_insert_with(Instant::now).elapsed() > OVERTAKEN_AT_MOST;
            }
            Err(error) => self.failed.push((id, error)),
        }
        group.held.is_some()
    }
}
