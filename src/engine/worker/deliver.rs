//! From a step's results to events.

use crate::device::with_f32;
use crate::engine::EngineError;
use crate::engine::sampler::NextToken;
use crate::engine::scheduler::UnitId;
use crate::model::Outputs;
use crate::profile::{self, Part};

use super::Worker;
use super::flight::{Flight, Place};

impl Worker {
    /// Gives every unit what its rows produced.
    pub(super) fn deliver(&mut self, flight: &Flight, outputs: &Outputs) -> candle_core::Result<()> {
        let _timer = profile::time(Part::Sample);
        let Some(logits) = &outputs.logits else { return self.deliver_rows(flight, outputs, &[]) };
        let vocab = logits.dims2()?.1;
        with_f32(logits, |all| {
            let rows: Vec<&[f32]> = all.chunks_exact(vocab).collect();
            self.deliver_rows(flight, outputs, &rows)
        })
    }

    fn deliver_rows(&mut self, flight: &Flight, outputs: &Outputs, logits: &[&[f32]]) -> candle_core::Result<()> {
        let mut at = 0;
        for unit_rows in flight.plan.rows.chunk_by(|a, b| a.unit == b.unit) {
            let id = unit_rows[0].unit;
            let places = &flight.places[at..at + unit_rows.len()];
            at += unit_rows.len();
            match places[0] {
                Place::Nothing => {}
                Place::Scores(index) => {
                    if let Some(group) = self.groups.get_mut(&id) {
                        group.found(self.scheduler.found(id));
                        group.score(outputs.scores[index].clone());
                    }
                    self.end(id, None);
                }
                Place::Logits(_) | Place::Choice(_) => {
                    let rows = places.iter().filter_map(|place| match place {
                        Place::Logits(index) => Some(NextToken::Logits(logits[*index])),
                        Place::Choice(index) => Some(NextToken::Choice(outputs.choices[*index])),
                        Place::Nothing | Place::Scores(_) => None,
                    });
                    self.choose(id, &rows.collect::<Vec<_>>());
                }
            }
        }
        Ok(())
    }

    fn choose(&mut self, id: UnitId, rows: &[NextToken<'_>]) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.found(self.scheduler.found(id));
        match group.step(rows, &mut self.sampler) {
            Ok(grown) if grown.is_empty() => self.end(id, None),
            Ok(grown) => self.scheduler.grow(id, &grown),
            Err(error) => self.end(id, Some(EngineError::Sampling(error.to_string()))),
        }
    }
}
