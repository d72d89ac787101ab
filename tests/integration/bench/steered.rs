//! Loads that other programs start, and look at request by request.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;

use super::in_process::measure;
use super::run::command;
use crate::http::harness::fixtures;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_trace_tells_of_every_request_and_prompts_are_of_the_lengths_asked_for() {
    let store = tempfile::tempdir().unwrap();
    let file = store.path().join("trace.jsonl");
    let trace = file.display().to_string();
    let load = ["--prompt-tokens", "5-9", "--output-tokens", "3", "--requests", "40", "--concurrency", "2,4"];
    measure("llama", store.path(), &[&load[..], &["--trace", &trace]].concat()).await.measured();
    let requests = lines(&std::fs::read_to_string(file).unwrap());
    assert_eq!(requests.len(), 80);
    assert_eq!(requests.iter().filter(|request| request["point"] == 1).count(), 40);
    let mut lengths: Vec<u64> = requests.iter().map(|request| request["prompt_tokens"].as_u64().unwrap()).collect();
    lengths.sort_unstable();
    lengths.dedup();
    assert_eq!(lengths, [5, 6, 7, 8, 9]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for request in &requests {
        let tokens = request["tokens"].as_array().unwrap().iter();
        let times = std::iter::once(&request["start"]).chain(tokens).chain([&request["end"]]);
        let times: Vec<f64> = times.map(|time| time.as_f64().unwrap()).collect();
        assert!(times.len() == 5 && times.is_sorted() && (now - 600.0..=now).contains(&times[0]), "{request}");
        assert!(request["error"].is_null() && request["adapter"].is_null() && request["cached_tokens"].is_u64());
    }
}

#[test]
fn a_load_that_waits_measures_a_point_for_each_line_and_ends_with_the_input() {
    let base = format!("bases.0.source={}", fixtures().join("bases/llama").display());
    let store = tempfile::tempdir().unwrap();
    let sets = [base, format!("adapters.store={}", store.path().display()), "server.threads=1".into()];
    let mut bench = command()
        .args(["--in-process", "--json", "--wait", "--concurrency", "1,1,1"])
        .args(["--requests", "2", "--prompt-tokens", "4", "--output-tokens", "2"])
        .args(sets.iter().flat_map(|set| ["--set", set]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = bench.stdin.take().unwrap();
    let mut points = BufReader::new(bench.stdout.take().unwrap());
    let mut words = BufReader::new(bench.stderr.take().unwrap());
    for _ in 0..2 {
        // It is ready before it is told to go.
        let mut line = String::new();
        while !line.starts_with("waiting for a line") {
            line.clear();
            assert!(words.read_line(&mut line).unwrap() > 0, "it ended");
        }
        writeln!(input).unwrap();
        let mut point = String::new();
        points.read_line(&mut point).unwrap();
        assert_eq!(lines(&point)[0]["errors"], 0);
    }
    drop(input);
    assert!(bench.wait().unwrap().success());
}

#[test]
fn the_bandwidth_of_memory_is_a_number() {
    let output = command().args(["--bandwidth", "--set", "server.threads=2"]).output().unwrap();
    let number: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(number > 0.0);
}
