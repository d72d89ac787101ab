//! A step under way.

use std::collections::HashMap;
use std::time::Instant;

use crate::adapter::Lease;
use crate::engine::scheduler::{Plan, UnitId};
use crate::model::Output;

/// A step that has begun, and whose results nobody has seen yet.
pub struct Flight {
    pub plan: Plan,
    /// Where each planned row's result will be.
    pub places: Vec<Place>,
    pub began: Instant,
    /// Of requests that ended while it was under way: this is their last step.
    pub leases: Vec<Lease>,
}

/// Where a planned row's result is, among those of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Nothing,
    Logits(usize),
    Choice(usize),
    Scores(usize),
}

impl Flight {
    /// Where the choice of each unit will be, of those that have one.
    pub fn choices(&self) -> HashMap<UnitId, usize> {
        let each = self.plan.rows.iter().zip(&self.places);
        let choice = each.filter_map(|(row, place)| match place {
            Place::Choice(index) => Some((row.unit, *index)),
            Place::Nothing | Place::Logits(_) | Place::Scores(_) => None,
        });
        choice.collect()
    }
}

/// The place of each planned row's result: `order` is the planned row of each row of the batch, `wants` what each planned row
/// wants.
pub fn places(order: &[usize], wants: &[Output]) -> Vec<Place> {
    let mut places = vec![Place::Nothing; order.len()];
    let (mut logits, mut choices, mut scores) = (0, 0, 0);
    for &row in order {
        let (place, next): (fn(usize) -> Place, _) = match wants[row] {
            Output::Nothing => continue,
            Output::Logits => (Place::Logits, &mut logits),
            Output::Choice => (Place::Choice, &mut choices),
            Output::Scores => (Place::Scores, &mut scores),
        };
        places[row] = place(*next);
        *next += 1;
    }
    places
}
