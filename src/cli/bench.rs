//! `repertoire bench`: puts load on a server and measures what its clients see.

mod bandwidth;
mod clients;
mod engines;
mod extra;
mod http;
mod lengths;
mod load;
mod make;
mod parts;
mod plan;
mod point;
mod prompts;
mod report;
mod roster;
mod run;
mod target;
mod trace;
mod wait;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::client::Server;
use super::configuration::Configuration;
use crate::app;
use engines::Engines;
use http::{Api, Http};
use load::Load;
use make::Make;
use report::Report;
use run::Run;
use target::Target;
use trace::Trace;

/// What to measure, and how.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    server: Server,
    /// What the server speaks: its own routes, or OpenAI's with the adapter in `model`
    #[arg(long, value_enum, default_value_t = Api::Native, value_name = "native|openai")]
    api: Api,
    /// The base, where there are several; with openai, the `model` of requests without an adapter
    #[arg(long, visible_alias = "model", value_name = "NAME")]
    base: Option<String>,
    /// Measures the engine in this process, without HTTP: bases and adapters are loaded as `serve` does
    #[arg(long)]
    in_process: bool,
    #[command(flatten)]
    configuration: Configuration,
    /// Prints where the time of a step goes
    #[arg(long, requires = "in_process")]
    profile: bool,
    /// Prints one JSON object per point, or writes them to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Writes one JSON object per request: its adapter, and the moments of its start and of each token in seconds since 1970
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Is ready to ask, then waits for lines on standard input and measures for each: several loads can run in step, and one
    /// process can measure many. A line may hold flags that change the load from then on
    #[arg(long)]
    wait: bool,
    /// Prints how many GB/s of memory the compute threads read, in place of measuring a load
    #[arg(long)]
    bandwidth: bool,
    #[command(flatten)]
    make: Make,
}

impl Bench {
    /// Measures every point and prints it; an error when no request got an answer. Or makes adapters to measure with.
    pub fn run(self) -> Result<()> {
        if let Some(folder) = &self.make.make_adapters {
            let config = self.configuration.load(self.configuration.overrides()?)?;
            return self.make.run(folder, &config, self.base.as_deref(), self.load.seed);
        }
        if self.bandwidth {
            app::start_threads(self.configuration.load(self.configuration.overrides()?)?.server.threads)?;
            println!("{:.2}", bandwidth::gigabytes_per_second());
            return Ok(());
        }
        self.load.check()?;
        let trace = self.trace.as_deref().map(Trace::create).transpose()?;
        let report = Report::open(self.json.as_deref())?;
        let run = Run { report, trace, profile: self.profile, points: 0, answered: 0 };
        if self.in_process {
            let config = self.configuration.load(self.configuration.overrides()?)?;
            let target = Engines::load(&config, self.base.as_deref(), &self.load)?;
            let title = target.title();
            return self.measure(target, &title, run);
        }
        let target = Http::connect(self.server.clone(), self.api, self.base.clone(), &self.load)?;
        let title = target.title();
        self.measure(target, &title, run)
    }

    /// The command line's points, or those of each line that comes.
    fn measure<T: Target>(&self, mut target: T, title: &str, mut run: Run) -> Result<()> {
        run.report.title(title, &self.load)?;
        if !self.wait {
            run.points(&target, &self.load)?;
            return run.end();
        }
        let mut load = self.load.clone();
        while let Some(line) = wait::for_a_line()? {
            if !line.trim().is_empty() {
                load = load.with(&line)?;
                target.turn_to(&load)?;
                run.report.turn(&line)?;
            }
            run.points(&target, &load)?;
        }
        run.end()
    }
}
