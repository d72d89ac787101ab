//! A table for people, and JSON for programs.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::clients::{Outcome, span};
use super::load::{Load, Task};
use super::parts;
use super::point::{Percentiles, Point};
use crate::profile::Part;

/// Different errors that are shown of each point.
const SHOWN: usize = 3;

/// Where results go.
pub struct Report {
    /// The table makes way when JSON goes to standard output.
    table: Box<dyn Write>,
    json: Option<Box<dyn Write>>,
}

impl Report {
    /// JSON goes to a file, or to standard output for "-".
    pub fn open(json: Option<&Path>) -> Result<Self> {
        let file = |path: &Path| File::create(path).with_context(|| format!("{} cannot be written", path.display()));
        Ok(match json {
            None => Self { table: Box::new(io::stdout()), json: None },
            Some(path) if path == Path::new("-") => {
                Self { table: Box::new(io::stderr()), json: Some(Box::new(io::stdout())) }
            }
            Some(path) => Self { table: Box::new(io::stdout()), json: Some(Box::new(file(path)?)) },
        })
    }

    /// What is measured, and the head of the table.
    pub fn title(&mut self, target: &str, load: &Load) -> Result<()> {
        let output = match load.task {
            Task::Generate => format!("{} output tokens", load.output_tokens),
            Task::Classify => "labels".to_owned(),
        };
        let adapters = load.roster()?.adapters();
        let turns = load.zipf.map_or("in turn".to_owned(), |exponent| format!("by Zipf's law with {exponent}"));
        let loop_ = load.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} requests/s, Poisson"));
        writeln!(
            self.table,
            "{target}\n{} requests a point, {loop_}; {adapters} adapters {turns}; {} prompt tokens, {} of them shared; {output}; seed {}\n",
            load.requests, load.prompt_tokens, load.shared_prefix, load.seed
        )?;
        let three = |title: &str| format!("{title:^29}");
        writeln!(self.table, "{:48} {} {}", "", three("first token, ms"), three("between tokens, ms"))?;
        writeln!(
            self.table,
            "{:>7}{:>9}{:>12}{:>12}{:>8}{}{}",
            "clients", "seconds", "requests/s", "tokens/s", "errors", PERCENTILES, PERCENTILES
        )?;
        Ok(())
    }

    /// What is asked from now on, in place of what the title says.
    pub fn turn(&mut self, line: &str) -> Result<()> {
        writeln!(self.table, "{}", line.trim())?;
        Ok(())
    }

    /// Where the time of the point's steps went.
    pub fn parts(&mut self, measured: &[(Part, Duration, u64)]) -> Result<()> {
        writeln!(self.table, "{}", parts::table(measured))?;
        Ok(())
    }

    /// A line of the table, a line of JSON, and what went wrong.
    pub fn point(&mut self, clients: usize, load: &Load, outcomes: &[Outcome]) -> Result<()> {
        let point = Point::of(clients, load.roster()?.adapters(), outcomes);
        writeln!(
            self.table,
            "{:>7}{:>9.2}{:>12.2}{:>12.1}{:>8}{}{}",
            point.concurrency,
            span(outcomes).as_secs_f64(),
            point.requests_per_s,
            point.output_tokens_per_s,
            point.errors,
            percentiles(&point.ttft_ms),
            percentiles(&point.itl_ms)
        )?;
        for note in notes(load, outcomes) {
            writeln!(self.table, "        {note}")?;
        }
        self.table.flush()?;
        if let Some(json) = &mut self.json {
            writeln!(json, "{}", serde_json::to_string(&point)?)?;
            json.flush()?;
        }
        Ok(())
    }
}

const PERCENTILES: &str = "       p50       p90       p99";

fn percentiles(of: &Percentiles) -> String {
    [of.p50, of.p90, of.p99].map(|time| time.map_or(format!("{:>10}", "-"), |time| format!("{time:>10.2}"))).concat()
}

/// The first errors, and what was not as it was asked for.
fn notes(load: &Load, outcomes: &[Outcome]) -> Vec<String> {
    let mut errors: Vec<&str> = Vec::new();
    for error in outcomes.iter().filter_map(|outcome| outcome.error.as_deref()) {
        if errors.len() < SHOWN && !errors.contains(&error) {
            errors.push(error);
        }
    }
    let mut notes: Vec<String> = errors.iter().map(|error| format!("error: {}", error.replace('\n', " "))).collect();
    let answered = || outcomes.iter().filter(|outcome| outcome.error.is_none());
    let other = |count: usize, wanted: usize| count != wanted;
    let prompts = answered().filter(|o| o.heard.prompt_tokens.is_some_and(|n| !load.prompt_tokens.contain(n))).count();
    if prompts > 0 {
        notes.push(format!("{prompts} prompts did not have {} tokens as the server counts them", load.prompt_tokens));
    }
    let answers = answered().filter(|outcome| other(outcome.heard.output_tokens, load.output_tokens)).count();
    if load.task == Task::Generate && answers > 0 {
        notes.push(format!("{answers} answers did not have {} tokens", load.output_tokens));
    }
    notes
}
