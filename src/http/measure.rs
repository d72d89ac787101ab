//! What requests leave in the metrics. Labels come from what this server holds, never from what a client wrote.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use parking_lot::Mutex;

use crate::engine::Usage;

use super::AppState;
use super::inference::Target;

/// Names that get a label of their own; further ones share `other`, so that a million adapters do not make a million series.
const MOST_LABELS: usize = 500;

/// The adapter label of a request, left in its response's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterLabel(pub Arc<str>);

impl AdapterLabel {
    /// The label of a resolved request; `base` for the plain base.
    pub fn of(target: &Target) -> Self {
        static SEEN: Mutex<Option<HashSet<Arc<str>>>> = Mutex::new(None);
        let Some(adapter) = &target.adapter else {
            return Self("base".into());
        };
        let mut seen = SEEN.lock();
        Self(bounded(seen.get_or_insert_default(), adapter.name.as_str(), MOST_LABELS))
    }
}

fn bounded(seen: &mut HashSet<Arc<str>>, name: &str, most: usize) -> Arc<str> {
    if let Some(known) = seen.get(name) {
        return known.clone();
    }
    if seen.len() >= most {
        return "other".into();
    }
    let name: Arc<str> = name.into();
    seen.insert(name.clone());
    name
}

/// One answered request.
pub fn request(route: &str, method: &str, status: u16, adapter: Option<&AdapterLabel>, took: Duration) {
    let adapter = adapter.map_or_else(String::new, |label| label.0.to_string());
    let (route, method) = (route.to_owned(), method.to_owned());
    histogram!("repertoire_request_seconds", "route" => route.clone(), "method" => method.clone()).record(took);
    counter!("repertoire_requests_total", "route" => route, "method" => method, "status" => status.to_string(), "adapter" => adapter)
        .increment(1);
}

/// The tokens of one finished request.
pub fn tokens(target: &Target, usage: Usage) {
    let adapter = AdapterLabel::of(target).0.to_string();
    for (kind, count) in
        [("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens), ("cached", usage.cached_tokens)]
    {
        let base = target.base.name().to_owned();
        counter!("repertoire_tokens_total", "base" => base, "adapter" => adapter.clone(), "kind" => kind)
            .increment(count as u64);
    }
}

/// How long a streaming client waited for its first token.
pub fn first_token(target: &Target, took: Duration) {
    histogram!("repertoire_first_token_seconds", "base" => target.base.name().to_owned()).record(took);
}

/// What the engines hold now; read when metrics are asked for.
pub fn engines(state: &AppState) {
    for base in state.bases.iter() {
        let stats = base.engine.stats();
        let name = base.name().to_owned();
        let gauge =
            |metric: &'static str, value: usize| metrics::gauge!(metric, "base" => name.clone()).set(value as f64);
        gauge("repertoire_engine_running", stats.running);
        gauge("repertoire_engine_waiting", stats.waiting);
        gauge("repertoire_engine_free_blocks", stats.free_blocks);
        gauge("repertoire_engine_cached_blocks", stats.cached_blocks);
        gauge("repertoire_engine_blocks", stats.total_blocks);
        counter!("repertoire_engine_steps_total", "base" => name.clone()).absolute(stats.steps);
        counter!("repertoire_engine_preemptions_total", "base" => name.clone()).absolute(stats.preemptions);
    }
}

/// What the registry holds now; read when metrics are asked for.
pub fn adapters(state: &AppState) {
    let stats = state.registry.stats();
    metrics::gauge!("repertoire_adapters").set(stats.names as f64);
    metrics::gauge!("repertoire_adapters_resident").set(stats.resident as f64);
    metrics::gauge!("repertoire_adapters_resident_bytes").set(stats.resident_bytes as f64);
}

/// Says what the metrics mean, once.
pub fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!("repertoire_requests_total", "Requests answered, by route, method, status and adapter");
    describe_histogram!("repertoire_request_seconds", Unit::Seconds, "Time until the head of the answer");
    describe_counter!(
        "repertoire_tokens_total",
        "Tokens of finished requests: prompt, completion, and prompt tokens found in the cache"
    );
    describe_histogram!(
        "repertoire_first_token_seconds",
        Unit::Seconds,
        "Time until the first token of a streamed answer"
    );
    describe_gauge!("repertoire_adapters", "Names of adapters");
    describe_gauge!("repertoire_adapters_resident", "Adapter versions in memory");
    describe_gauge!("repertoire_adapters_resident_bytes", Unit::Bytes, "Memory that adapter versions take");
    describe_gauge!("repertoire_engine_running", "Sequences running");
    describe_gauge!("repertoire_engine_waiting", "Requests waiting");
    describe_gauge!("repertoire_engine_free_blocks", "Blocks of keys and values that no request uses");
    describe_gauge!("repertoire_engine_cached_blocks", "Blocks of keys and values that further requests can share");
    describe_gauge!("repertoire_engine_blocks", "Blocks of keys and values");
    describe_counter!("repertoire_engine_steps_total", "Steps since the start");
    describe_counter!(
        "repertoire_engine_preemptions_total",
        "Requests that gave their blocks back and were computed once more"
    );
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::bounded;

    #[test]
    fn names_past_the_bound_share_a_label() {
        let mut seen = HashSet::new();
        let labels: Vec<_> = ["a", "b", "c", "a"].iter().map(|name| bounded(&mut seen, name, 2)).collect();
        assert_eq!(labels.iter().map(|label| &**label).collect::<Vec<_>>(), ["a", "b", "other", "a"]);
    }
}
