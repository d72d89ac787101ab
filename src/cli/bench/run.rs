//! One point after the other.

use anyhow::{Result, bail};

use super::clients;
use super::load::Load;
use super::report::Report;
use super::target::Target;
use super::trace::Trace;
use crate::profile;

/// Points as they are measured, and where they are told.
pub struct Run {
    pub report: Report,
    pub trace: Option<Trace>,
    /// Whether the parts of steps are measured, too.
    pub profile: bool,
    /// So many are measured.
    pub points: usize,
    /// Requests with an answer.
    pub answered: usize,
}

impl Run {
    /// Measures a load's points.
    pub fn points<T: Target>(&mut self, target: &T, load: &Load) -> Result<()> {
        for clients in load.clients() {
            let round = 2 * self.points as u64;
            clients::run(target, clients, load.warmup_plan(round, clients)?)?;
            if self.profile {
                profile::start();
            }
            let outcomes = clients::run(target, clients, load.plan(round + 1)?)?;
            self.answered += outcomes.iter().filter(|outcome| outcome.error.is_none()).count();
            if let Some(trace) = &mut self.trace {
                trace.point(self.points, &outcomes)?;
            }
            self.report.point(clients, load, &outcomes)?;
            if self.profile {
                profile::stop();
                self.report.parts(&profile::take())?;
            }
            self.points += 1;
        }
        Ok(())
    }

    /// An error when points were measured and no request got an answer.
    pub fn end(self) -> Result<()> {
        if self.points > 0 && self.answered == 0 {
            bail!("every request failed");
        }
        Ok(())
    }
}
