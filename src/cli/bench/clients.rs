//! Clients that ask and measure.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;

use super::plan::Planned;
use super::target::{Heard, Target};

/// What became of a request.
#[derive(Debug)]
pub struct Outcome {
    /// `None`: the base.
    pub adapter: Option<String>,
    /// When it was planned (with a rate) or sent: latencies count from here.
    pub start: Instant,
    pub end: Instant,
    pub heard: Heard,
    pub error: Option<String>,
}

/// Sends all requests of a plan, at most `clients` at once.
///
/// A request that finds all clients busy at its time is late, and its latency holds the wait: a server that stalls
/// is not spared the requests that would have come meanwhile (no coordinated omission).
pub fn run<T: Target>(target: &T, clients: usize, plan: Vec<Planned>) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let requests = plan.len();
    let plan: Vec<Mutex<Option<Planned>>> = plan.into_iter().map(|planned| Mutex::new(Some(planned))).collect();
    let begun = Instant::now();
    let client = || {
        let mut outcomes = Vec::new();
        while let Some(planned) = plan.get(next.fetch_add(1, Ordering::Relaxed)) {
            outcomes.extend(planned.lock().take().map(|planned| ask(target, planned, begun)));
        }
        outcomes
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients.min(requests)).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap_or_default()).collect()
    })
}

fn ask<T: Target>(target: &T, mut planned: Planned, begun: Instant) -> Outcome {
    let question = target.prepare(planned.adapter.as_deref(), &mut planned.rng);
    let start = match planned.at {
        Some(at) => {
            thread::sleep((begun + at).saturating_duration_since(Instant::now()));
            begun + at
        }
        None => Instant::now(),
    };
    let mut heard = Heard::default();
    let result: Result<()> = question.and_then(|question| target.ask(question, &mut heard));
    let error = result.err().map(|error| format!("{error:#}"));
    Outcome { adapter: planned.adapter, start, end: Instant::now(), heard, error }
}

/// From the first start to the last end.
pub fn span(outcomes: &[Outcome]) -> Duration {
    let start = outcomes.iter().map(|outcome| outcome.start).min();
    let end = outcomes.iter().map(|outcome| outcome.end).max();
    start.zip(end).map_or(Duration::ZERO, |(start, end)| end.saturating_duration_since(start))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::cli::bench::load::Load;
    use crate::cli::bench::plan;
    use crate::cli::bench::roster::Roster;

    /// Answers after a while; every third request fails.
    struct Slow {
        pause: Duration,
        fails: bool,
        inside: AtomicUsize,
        most: AtomicUsize,
    }

    impl Target for Slow {
        type Question = usize;

        fn turn_to(&mut self, _: &Load) -> Result<()> {
            Ok(())
        }

        fn prepare(&self, adapter: Option<&str>, _: &mut ChaCha8Rng) -> Result<usize> {
            Ok(adapter.map_or(0, str::len))
        }

        fn ask(&self, question: usize, heard: &mut Heard) -> Result<()> {
            let inside = self.inside.fetch_add(1, Ordering::AcqRel) + 1;
            self.most.fetch_max(inside, Ordering::AcqRel);
            thread::sleep(self.pause);
            self.inside.fetch_sub(1, Ordering::AcqRel);
            heard.token();
            anyhow::ensure!(!(self.fails && question == 2), "it failed");
            Ok(())
        }
    }

    fn slow(pause: u64, fails: bool) -> Slow {
        Slow { pause: Duration::from_millis(pause), fails, inside: AtomicUsize::new(0), most: AtomicUsize::new(0) }
    }

    fn plan(requests: usize, rate: Option<f64>) -> Vec<Planned> {
        let roster = Roster::parse(&["a", "b", "cc"].map(str::to_owned), None).unwrap();
        plan::make(requests, &roster, rate, ChaCha8Rng::seed_from_u64(0))
    }

    #[test]
    fn as_many_requests_are_in_flight_as_there_are_clients() {
        let target = slow(10, true);
        let outcomes = run(&target, 4, plan(12, None));
        assert_eq!((outcomes.len(), target.most.load(Ordering::Acquire)), (12, 4));
        assert_eq!(outcomes.iter().filter(|outcome| outcome.error.as_deref() == Some("it failed")).count(), 4);
        assert!(span(&outcomes) >= Duration::from_millis(30), "{:?}", span(&outcomes));
    }

    #[test]
    fn the_latency_of_a_late_request_counts_from_its_planned_time() {
        // 20 requests within some 20 ms, and one client that takes 5 ms for each: the last waits for all others.
        let outcomes = run(&slow(5, false), 1, plan(20, Some(1000.0)));
        let longest = outcomes.iter().map(|outcome| outcome.end - outcome.start).max().unwrap();
        assert!(longest >= Duration::from_millis(50), "{longest:?}");
    }
}
