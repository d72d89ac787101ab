//! What is asked when: decided before a round, so that answers cannot change it.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::roster::Roster;

/// A request to come.
#[derive(Debug)]
pub struct Planned {
    /// `None`: the base.
    pub adapter: Option<String>,
    /// When it arrives, from the round's start; `None`: as soon as a client is free.
    pub at: Option<Duration>,
    /// Its prompt comes from here.
    pub rng: ChaCha8Rng,
}

/// A round of requests: at a rate as a Poisson process, or one after the other.
pub fn make(requests: usize, roster: &Roster, rate: Option<f64>, mut rng: ChaCha8Rng) -> Vec<Planned> {
    let mut now = 0.0;
    let mut planned = |number: usize| {
        let at = rate.map(|rate| {
            // Times between the arrivals of a Poisson process are exponential; the logarithm's argument is never 0.
            now -= (1.0 - rng.random::<f64>()).ln() / rate;
            Duration::from_secs_f64(now)
        });
        let adapter = roster.pick(number, &mut rng).map(str::to_owned);
        Planned { adapter, at, rng: ChaCha8Rng::seed_from_u64(rng.random()) }
    };
    (0..requests).map(&mut planned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(rate: f64, requests: usize) -> Vec<f64> {
        let roster = Roster::parse(&["none".to_owned()], None).unwrap();
        let plan = make(requests, &roster, Some(rate), ChaCha8Rng::seed_from_u64(3));
        plan.iter().map(|planned| planned.at.unwrap().as_secs_f64()).collect()
    }

    #[test]
    fn arrivals_keep_the_rate_and_are_poisson() {
        let times = arrivals(50.0, 5000);
        assert!(times.is_sorted());
        assert!((times[4999] - 100.0).abs() < 6.0, "{}", times[4999]);
        // In a Poisson process the number of arrivals per window varies as much as it is large.
        let mut windows = [0.0_f64; 90];
        for time in times {
            if let Some(window) = windows.get_mut(time as usize) {
                *window += 1.0;
            }
        }
        let mean = windows.iter().sum::<f64>() / 90.0;
        let variance = windows.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 89.0;
        assert!((variance / mean - 1.0).abs() < 0.5, "{variance} {mean}");
    }

    #[test]
    fn a_seed_decides_everything() {
        assert_eq!(arrivals(10.0, 20), arrivals(10.0, 20));
    }
}
