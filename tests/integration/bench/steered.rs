//! Loads that other programs start, and look at request by request.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::{Value, json};

use super::in_process::{measure, store};
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
fn a_load_that_waits_measures_for_each_line_what_it_says_and_ends_with_the_input() {
    let base = format!("bases.0.source={}", fixtures().join("bases/llama").display());
    let store = store(&[("lora", "llama/lora")]);
    let trace = store.path().join("trace.jsonl");
    let sets = [base, format!("adapters.store={}", store.path().display()), "server.threads=1".into()];
    let mut bench = command()
        .args(["--in-process", "--json", "--wait", "--concurrency", "1"])
        .args(["--requests", "2", "--prompt-tokens", "4", "--output-tokens", "2"])
        .args(["--trace", &trace.display().to_string()])
        .args(sets.iter().flat_map(|set| ["--set", set]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = bench.stdin.take().unwrap();
    let mut points = BufReader::new(bench.stdout.take().unwrap());
    let mut words = BufReader::new(bench.stderr.take().unwrap());
    // What a line says holds until another says otherwise.
    let asked = ["", "--adapters none,lora --requests 4 --prompt-tokens 6", "", "--adapters none --concurrency 2,3"];
    let expected = [&[(1, 0, 2, 4)][..], &[(1, 1, 4, 6)], &[(1, 1, 4, 6)], &[(2, 0, 4, 6), (3, 0, 4, 6)]];
    let mut measured = 0;
    for (asked, expected) in asked.into_iter().zip(expected) {
        // It is ready before it is told to go.
        let mut line = String::new();
        while !line.starts_with("waiting for a line") {
            line.clear();
            assert!(words.read_line(&mut line).unwrap() > 0, "it ended");
        }
        writeln!(input, "{asked}").unwrap();
        for (clients, adapters, requests, prompt) in expected {
            let mut point = String::new();
            points.read_line(&mut point).unwrap();
            let point = &lines(&point)[0];
            assert_eq!((&point["concurrency"], &point["adapters"]), (&json!(clients), &json!(adapters)));
            assert_eq!(point["errors"], 0);
            let traced = lines(&std::fs::read_to_string(&trace).unwrap());
            let own: Vec<_> = traced.iter().filter(|request| request["point"] == measured).collect();
            assert_eq!(own.len(), *requests);
            assert!(own.iter().all(|request| request["prompt_tokens"] == *prompt));
            measured += 1;
        }
    }
    drop(input);
    assert!(bench.wait().unwrap().success());
}

#[test]
fn a_line_that_says_what_no_load_has_ends_it() {
    for (line, part) in [("--url x", "--url"), ("--requests 0", "--requests"), ("none", "none")] {
        let base = format!("bases.0.source={}", fixtures().join("bases/llama").display());
        let store = tempfile::tempdir().unwrap();
        let mut bench = command()
            .args(["--in-process", "--wait", "--set", &base, "--set", "server.threads=1"])
            .args(["--set", &format!("adapters.store={}", store.path().display())])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(bench.stdin.take().unwrap(), "{line}").unwrap();
        let output = bench.wait_with_output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && message.contains(part), "{message}");
    }
}

#[test]
fn the_bandwidth_of_memory_is_a_number() {
    let output = command().args(["--bandwidth", "--set", "server.threads=2"]).output().unwrap();
    let number: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(number > 0.0);
}
