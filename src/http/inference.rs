//! From what a request asks to what an engine runs, and back. Knows nothing of wire formats: native and foreign routes share it.

mod accept;
mod classification;
mod generation;
mod parameters;
mod prompt;
mod score;
mod target;

pub use accept::accept;
pub use classification::{Classification, ClassifyCall, Label};
pub use generation::{Answer, GenerateCall, Generation, RunningInput, Sequence, add_usage};
pub use parameters::{Limits, RequestParameters};
pub use prompt::Prompt;
pub use target::Target;

use std::time::{Duration, Instant};

use crate::config::Config;

use super::ApiError;

/// How much a request may matter more or less than others.
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;
/// A day: nobody waits longer.
pub const LONGEST_TIMEOUT_MS: u64 = 86_400_000;

/// What a request says about when and how its inputs run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scheduling {
    pub priority: i32,
    /// When the client stops waiting.
    deadline: Option<Instant>,
}

impl Scheduling {
    /// Checks and resolves `priority` and `timeout_ms`.
    pub fn new(priority: i32, timeout_ms: Option<u64>) -> Result<Self, ApiError> {
        if !PRIORITIES.contains(&priority) {
            let (least, most) = (PRIORITIES.start(), PRIORITIES.end());
            return Err(ApiError::validation(
                "priority",
                format!("priority must be from {least} to {most}, given {priority}"),
            ));
        }
        if let Some(timeout) = timeout_ms
            && !(1..=LONGEST_TIMEOUT_MS).contains(&timeout)
        {
            let message = format!("timeout_ms must be from 1 to {LONGEST_TIMEOUT_MS}, given {timeout}");
            return Err(ApiError::validation("timeout_ms", message));
        }
        Ok(Self { priority, deadline: timeout_ms.map(|timeout| Instant::now() + Duration::from_millis(timeout)) })
    }

    /// How long the client still waits.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// Refuses an empty list of inputs, and one that is over the limit or could never be queued whole.
pub fn check_inputs(given: usize, config: &Config) -> Result<(), ApiError> {
    let limit = config.limits.inputs;
    let queue = config.scheduler.max_waiting + config.scheduler.max_running.min(config.scheduler.max_batch_tokens);
    if given == 0 {
        return Err(ApiError::validation("input", "input must hold at least one text, given an empty list"));
    }
    if given > limit {
        return Err(ApiError::validation(
            "input",
            format!("input may hold at most {limit} texts (limits.inputs), given {given}"),
        ));
    }
    if given > queue {
        let message = format!(
            "input may hold at most {queue} texts (scheduler.max_running + scheduler.max_waiting), given {given}"
        );
        return Err(ApiError::validation("input", message));
    }
    Ok(())
}
