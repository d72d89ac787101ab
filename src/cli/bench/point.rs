//! One measured point.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::clients::{Outcome, span};

/// Figures of one point. In JSON, the contract that other tools read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Clients, or the most requests in flight where they come at a rate.
    pub concurrency: usize,
    /// How many different ones were asked for.
    pub adapters: usize,
    pub output_tokens_per_s: f64,
    pub requests_per_s: f64,
    /// To the first token; without tokens, to the answer.
    pub ttft_ms: Percentiles,
    /// Between two tokens of an answer.
    pub itl_ms: Percentiles,
    pub errors: usize,
}

/// Milliseconds; null where nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
}

impl Point {
    /// What the answered requests come to; failed ones are only counted.
    pub fn of(concurrency: usize, adapters: usize, outcomes: &[Outcome]) -> Self {
        let answered = || outcomes.iter().filter(|outcome| outcome.error.is_none());
        let seconds = span(outcomes).as_secs_f64();
        let per_second = |count: usize| if seconds > 0.0 { rounded(count as f64 / seconds) } else { 0.0 };
        let first = |outcome: &Outcome| outcome.heard.at.first().map(|&at| since(outcome.start, at));
        let gaps = |outcome: &Outcome| {
            let gap = |pair: &[Instant]| since(pair[0], pair[1]);
            outcome.heard.at.windows(2).map(gap).collect::<Vec<_>>()
        };
        Self {
            concurrency,
            adapters,
            output_tokens_per_s: per_second(answered().map(|outcome| outcome.heard.output_tokens).sum()),
            requests_per_s: per_second(answered().count()),
            ttft_ms: Percentiles::of(answered().filter_map(first).collect()),
            itl_ms: Percentiles::of(answered().flat_map(gaps).collect()),
            errors: outcomes.len() - answered().count(),
        }
    }
}

impl Percentiles {
    /// By the nearest rank.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map(|time| rounded(time.as_secs_f64() * 1e3))
        };
        Self { p50: at(50), p90: at(90), p99: at(99) }
    }
}

fn since(start: Instant, end: Instant) -> Duration {
    end.saturating_duration_since(start)
}

/// To a thousandth: more is noise.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::target::Heard;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times = |n: u64| (1..=n).rev().map(Duration::from_millis).collect();
        let of = |n| Percentiles::of(times(n));
        assert_eq!(of(200), Percentiles { p50: Some(100.0), p90: Some(180.0), p99: Some(198.0) });
        assert_eq!(of(1), Percentiles { p50: Some(1.0), p90: Some(1.0), p99: Some(1.0) });
        assert_eq!(of(0), Percentiles::default());
    }

    #[test]
    fn failed_requests_are_counted_and_nothing_else_of_them() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let heard = |at: &[u64]| Heard {
            at: at.iter().map(|&ms| after(ms)).collect(),
            prompt_tokens: None,
            cached_tokens: None,
            output_tokens: at.len(),
        };
        let outcome = |end, at: &[u64], error: Option<&str>| Outcome {
            adapter: None,
            start,
            end: after(end),
            heard: heard(at),
            error: error.map(str::to_owned),
        };
        let outcomes = [outcome(500, &[100, 200, 500], None), outcome(1000, &[900], Some("no"))];
        let point = Point::of(2, 3, &outcomes);
        assert_eq!((point.output_tokens_per_s, point.requests_per_s, point.errors), (3.0, 1.0, 1));
        assert_eq!(point.ttft_ms.p99, Some(100.0));
        assert_eq!((point.itl_ms.p50, point.itl_ms.p99), (Some(100.0), Some(300.0)));
        let json = serde_json::to_value(&point).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        let contract =
            ["concurrency", "adapters", "output_tokens_per_s", "requests_per_s", "ttft_ms", "itl_ms", "errors"];
        assert_eq!(keys, contract);
    }
}
