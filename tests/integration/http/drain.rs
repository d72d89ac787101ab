//! What a request hears that comes when its engine goes.

use std::time::Duration;

use repertoire::engine::{EngineError, Parameters, Request, Work};
use repertoire::http::Code;
use repertoire::http::inference::{Generation, RunningInput, Target};

use super::harness::{Holds, Server};

#[tokio::test]
async fn a_request_that_meets_the_end_of_its_engine_is_answered_whole_or_503() {
    for _ in 0..20 {
        let server = Server::start(Holds::Llama);
        let base = server.state.bases.iter().next().unwrap().clone();
        let engine = base.engine.clone();
        let submitting = std::thread::spawn(move || {
            loop {
                let request = Request {
                    prompt: vec![1; 200],
                    adapter: None,
                    work: Work::Generate(Parameters { max_new_tokens: 1, ..Parameters::default() }),
                    priority: 0,
                    timeout: None,
                };
                match engine.submit(request) {
                    Ok(events) if !engine.takes_requests() => return Some(events),
                    // Whoever is gone leaves the engine idle: then it ends at once when it is told to.
                    Ok(events) => drop(events),
                    Err(EngineError::Draining) => return None,
                    Err(_) => {}
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        base.engine.drain().await;
        if let Some(events) = submitting.join().unwrap() {
            let inputs = vec![RunningInput { events, before: String::new() }];
            let target = Target { base: base.clone(), adapter: None };
            let answer = Generation { target, inputs, sequences: 1, max_new_tokens: 1 }.collect().await;
            assert!(answer.as_ref().map_or_else(|error| error.code == Code::Draining, |_| true), "{:?}", answer.err());
        }
        server.get("/ready").await.refused(503, "unavailable", &["base llama"]);
    }
}
