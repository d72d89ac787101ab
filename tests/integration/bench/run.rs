//! Runs of the tool.

use std::process::{Command, Output};

use serde_json::Value;

/// A run that ended.
pub struct Run {
    pub ok: bool,
    /// JSON lines of standard output.
    pub points: Vec<Value>,
    /// Standard error, where the table goes beside JSON.
    pub table: String,
}

/// Runs `repertoire bench --json` off the async threads.
pub async fn bench(arguments: &[&str]) -> Run {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    tokio::task::spawn_blocking(move || Run::of(command().arg("--json").args(arguments).output().unwrap()))
        .await
        .unwrap()
}

/// `repertoire bench` with nothing of the one who runs the tests.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_repertoire"));
    command.env_remove("REPERTOIRE_URL").env_remove("REPERTOIRE_KEY").current_dir(std::env::temp_dir()).arg("bench");
    command
}

impl Run {
    fn of(output: Output) -> Self {
        let text = String::from_utf8(output.stdout).unwrap();
        let points = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Self { ok: output.status.success(), points, table: String::from_utf8(output.stderr).unwrap() }
    }

    /// The points of a run that must have succeeded without any error.
    #[track_caller]
    pub fn measured(&self) -> &[Value] {
        assert!(self.ok && !self.points.is_empty(), "{}", self.table);
        for point in &self.points {
            check_shape(point);
            assert_eq!(point["errors"], 0, "{}", self.table);
            assert!(!self.table.contains("did not have"), "{}", self.table);
        }
        &self.points
    }
}

/// A point's JSON is what the contract says, and its numbers agree with one another.
#[track_caller]
pub fn check_shape(point: &Value) {
    let keys: Vec<&str> = point.as_object().unwrap().keys().map(String::as_str).collect();
    let contract = ["concurrency", "adapters", "output_tokens_per_s", "requests_per_s", "ttft_ms", "itl_ms", "errors"];
    assert_eq!(keys, contract);
    for field in ["ttft_ms", "itl_ms"] {
        let times = &point[field];
        let keys: Vec<&str> = times.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["p50", "p90", "p99"]);
        let times = ["p50", "p90", "p99"].map(|name| times[name].as_f64());
        assert!(times.is_sorted() && times.iter().flatten().all(|time| *time >= 0.0), "{point}");
    }
}

/// Whether an answer had so many tokens on average.
#[track_caller]
pub fn check_tokens(point: &Value, per_request: f64) {
    let rate = |field: &str| point[field].as_f64().unwrap();
    let ratio = rate("output_tokens_per_s") / rate("requests_per_s");
    assert!((ratio / per_request - 1.0).abs() < 0.01, "{point}");
}
