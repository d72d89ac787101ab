//! How the learning rate changes over a job.

use serde::{Deserialize, Serialize};

/// A share of the learning rate by step, under the names of transformers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Down to 0 in a straight line.
    #[default]
    Linear,
    /// Down to 0 by half a cosine.
    Cosine,
    /// Always all of it.
    Constant,
}

impl Schedule {
    /// The share at a step (the first is 0) of `steps`, of which the first `warmup` climb from 0: transformers'
    /// `get_linear_schedule_with_warmup` and its like.
    pub fn share(self, step: usize, warmup: usize, steps: usize) -> f64 {
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Linear => (1.0 - done).max(0.0),
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()),
            Self::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_climb_and_fall_as_those_of_transformers() {
        let shares = |schedule: Schedule| [0, 1, 2, 6, 10].map(|step| schedule.share(step, 2, 10));
        assert_eq!(shares(Schedule::Linear), [0.0, 0.5, 1.0, 0.5, 0.0]);
        assert_eq!(shares(Schedule::Constant), [0.0, 0.5, 1.0, 1.0, 1.0]);
        let [.., full, half, none] = shares(Schedule::Cosine);
        assert!((full - 1.0).abs() < 1e-12 && (half - 0.5).abs() < 1e-12 && none.abs() < 1e-12);
    }
}
