//! `repertoire bench`: puts load on a server and measures what its clients see.

mod clients;
mod engines;
mod http;
mod load;
mod make;
mod parts;
mod plan;
mod point;
mod prompts;
mod report;
mod roster;
mod target;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::client::Server;
use super::configuration::Configuration;
use crate::profile;
use engines::Engines;
use http::{Api, Http};
use load::Load;
use make::Make;
use report::Report;
use target::Target;

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
        self.load.check()?;
        let mut report = Report::open(self.json.as_deref())?;
        if self.in_process {
            let config = self.configuration.load(self.configuration.overrides()?)?;
            let target = Engines::load(&config, self.base.as_deref(), &self.load)?;
            report.title(&target.title(), &self.load)?;
            return measure(&target, &self.load, self.profile, &mut report);
        }
        let target = Http::connect(self.server, self.api, self.base, &self.load)?;
        report.title(&target.title(), &self.load)?;
        measure(&target, &self.load, false, &mut report)
    }
}

/// One point after the other.
fn measure<T: Target>(target: &T, load: &Load, profiled: bool, report: &mut Report) -> Result<()> {
    let mut answered = 0;
    for (number, clients) in load.clients().into_iter().enumerate() {
        let round = 2 * number as u64;
        clients::run(target, clients, load.warmup_plan(round, clients)?);
        if profiled {
            profile::start();
        }
        let outcomes = clients::run(target, clients, load.plan(round + 1)?);
        answered += outcomes.iter().filter(|outcome| outcome.error.is_none()).count();
        report.point(clients, load, &outcomes)?;
        if profiled {
            profile::stop();
            report.parts(&profile::take())?;
        }
    }
    if answered == 0 {
        bail!("every request failed");
    }
    Ok(())
}
