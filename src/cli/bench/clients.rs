//! Clients that ask and measure.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use super::plan::Planned;
use super::target::{Heard, Target};

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `None`: the base.
    pub adapter: Option<String>,
    /// When it was planned (with a rate) or sent: latencies count from here.
    pub start: Instant,
    pub end: Instant,
    pub heard: Heard,
    pub error: Option<String>,
}

/// Clients that a thread serves, where asking does not block it.
const TOGETHER: usize = 64;

/// Requests that clients take one after the other.
struct Queue {
    plan: Vec<Mutex<Option<Planned>>>,
    next: AtomicUsize,
}

/// A request that waits for its time.
struct Prepared<Q> {
    adapter: Option<String>,
    at: Option<Duration>,
    question: Result<Q>,
}

impl Queue {
    fn take<T: Target>(&self, target: &T) -> Option<Prepared<T::Question>> {
        let mut planned = self.plan.get(self.next.fetch_add(1, Ordering::Relaxed))?.lock().take()?;
        let question = target.prepare(planned.adapter.as_deref(), &mut planned.rng);
        Some(Prepared { adapter: planned.adapter, at: planned.at, question })
    }
}

/// Sends all requests of a plan, at most `clients` at once: the first of each client when those of all are made.
///
/// A request that finds all clients busy at its time is late, and its latency holds the wait: a server that stalls
/// is not spared the requests that would have come meanwhile (no coordinated omission).
pub fn run<T: Target>(target: &T, clients: usize, plan: Vec<Planned>) -> Result<Vec<Outcome>> {
    let clients = clients.min(plan.len());
    // Who waits for its time blocks the thread, too.
    let blocks = T::BLOCKS || plan.iter().any(|planned| planned.at.is_some());
    let each = if blocks { 1 } else { TOGETHER };
    let plan = plan.into_iter().map(|planned| Mutex::new(Some(planned))).collect();
    let queue = Queue { plan, next: AtomicUsize::new(0) };
    let threads = (0..clients).step_by(each).map(|first| each.min(clients - first));
    let threads = threads.map(|own| Ok((own, Builder::new_current_thread().build()?))).collect::<Result<Vec<_>>>()?;
    let serve = |own, runtime: &Runtime, ready: Sender<()>, begins: &Receiver<Instant>| {
        let firsts: Vec<_> = (0..own).filter_map(|_| queue.take(target)).collect();
        // Who is told no time, as another thread could not begin, asks nothing.
        drop(ready);
        let Ok(begun) = begins.recv() else { return Vec::new() };
        let clients = firsts.into_iter().map(|first| client(target, &queue, first, begun));
        runtime.block_on(join_all(clients)).concat()
    };
    thread::scope(|scope| {
        let (serve, (ready, all_ready)) = (&serve, channel::<()>());
        let start = |(own, runtime): (usize, Runtime)| {
            let ((begin, begins), ready) = (channel(), ready.clone());
            let thread = thread::Builder::new().spawn_scoped(scope, move || serve(own, &runtime, ready, &begins))?;
            Ok((thread, begin))
        };
        let threads = threads.into_iter().map(start).collect::<Result<Vec<_>>>()?;
        drop(ready);
        // It ends when nobody is left who prepares.
        all_ready.iter().for_each(drop);
        let begun = Instant::now();
        for (_, begin) in &threads {
            // Who panicked does not listen.
            let _ = begin.send(begun);
        }
        Ok(threads.into_iter().flat_map(|(thread, _)| thread.join().unwrap_or_default()).collect())
    })
}

/// Asks one request after the other.
async fn client<T: Target>(target: &T, queue: &Queue, first: Prepared<T::Question>, begun: Instant) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut next = Some(first);
    while let Some(prepared) = next {
        outcomes.push(ask(target, prepared, begun).await);
        next = queue.take(target);
    }
    outcomes
}

async fn ask<T: Target>(target: &T, prepared: Prepared<T::Question>, begun: Instant) -> Outcome {
    let start = match prepared.at {
        Some(at) => {
            thread::sleep((begun + at).saturating_duration_since(Instant::now()));
            begun + at
        }
        None => Instant::now(),
    };
    let mut heard = Heard::default();
    let result = match prepared.question {
        Ok(question) => target.ask(question, &mut heard).await,
        Err(error) => Err(error),
    };
    let error = result.err().map(|error| format!("{error:#}"));
    Outcome { adapter: prepared.adapter, start, end: Instant::now(), heard, error }
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
        const BLOCKS: bool = true;

        fn turn_to(&mut self, _: &Load) -> Result<()> {
            Ok(())
        }

        fn prepare(&self, adapter: Option<&str>, _: &mut ChaCha8Rng) -> Result<usize> {
            Ok(adapter.map_or(0, str::len))
        }

        async fn ask(&self, question: usize, heard: &mut Heard) -> Result<()> {
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
        let outcomes = run(&target, 4, plan(12, None)).unwrap();
        assert_eq!((outcomes.len(), target.most.load(Ordering::Acquire)), (12, 4));
        assert_eq!(outcomes.iter().filter(|outcome| outcome.error.as_deref() == Some("it failed")).count(), 4);
        assert!(span(&outcomes) >= Duration::from_millis(30), "{:?}", span(&outcomes));
    }

    /// Answers a request when so many others wait for theirs.
    struct Meeting(tokio::sync::Barrier);

    impl Target for Meeting {
        type Question = ();
        const BLOCKS: bool = false;

        fn turn_to(&mut self, _: &Load) -> Result<()> {
            Ok(())
        }

        fn prepare(&self, _: Option<&str>, _: &mut ChaCha8Rng) -> Result<()> {
            Ok(())
        }

        async fn ask(&self, (): (), _: &mut Heard) -> Result<()> {
            self.0.wait().await;
            Ok(())
        }
    }

    #[test]
    fn clients_that_do_not_block_share_threads() {
        let clients = 2 * TOGETHER + 7;
        let outcomes = run(&Meeting(tokio::sync::Barrier::new(clients)), clients, plan(3 * clients, None)).unwrap();
        assert_eq!(outcomes.len(), 3 * clients);
    }

    #[test]
    fn the_latency_of_a_late_request_counts_from_its_planned_time() {
        // 20 requests within some 20 ms, and one client that takes 5 ms for each: the last waits for all others.
        let outcomes = run(&slow(5, false), 1, plan(20, Some(1000.0))).unwrap();
        let longest = outcomes.iter().map(|outcome| outcome.end - outcome.start).max().unwrap();
        assert!(longest >= Duration::from_millis(50), "{longest:?}");
    }
}
