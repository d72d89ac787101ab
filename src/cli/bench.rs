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
mod target;
mod trace;
mod wait;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::client::Server;
use super::configuration::Configuration;
use crate::{app, profile};
use engines::Engines;
use http::{Api, Http};
use load::Load;
use make::Make;
use report::Report;
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
    /// Is ready to ask, then waits before each point for a line on standard input: several loads can run in step
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
        let mut report = Report::open(self.json.as_deref())?;
        if self.in_process {
            let config = self.configuration.load(self.configuration.overrides()?)?;
            let target = Engines::load(&config, self.base.as_deref(), &self.load)?;
            report.title(&target.title(), &self.load)?;
            return self.measure(&target, &mut report, trace);
        }
        let target = Http::connect(self.server.clone(), self.api, self.base.clone(), &self.load)?;
        report.title(&target.title(), &self.load)?;
        self.measure(&target, &mut report, trace)
    }

    /// One point after the other.
    fn measure<T: Target>(&self, target: &T, report: &mut Report, mut trace: Option<Trace>) -> Result<()> {
        let load = &self.load;
        let mut answered = 0;
        for (number, clients) in load.clients().into_iter().enumerate() {
            if self.wait && !wait::for_a_line()? {
                return Ok(());
            }
            let round = 2 * number as u64;
            clients::run(target, clients, load.warmup_plan(round, clients)?);
            if self.profile {
                profile::start();
            }
            let outcomes = clients::run(target, clients, load.plan(round + 1)?);
            answered += outcomes.iter().filter(|outcome| outcome.error.is_none()).count();
            if let Some(trace) = &mut trace {
                trace.point(number, &outcomes)?;
            }
            report.point(clients, load, &outcomes)?;
            if self.profile {
                profile::stop();
                report.parts(&profile::take())?;
            }
        }
        if answered == 0 {
            bail!("every request failed");
        }
        Ok(())
    }
}
