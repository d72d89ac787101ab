//! The load that a benchmark makes.

use anyhow::{Context, Result, bail};
use clap::builder::Resettable;
use clap::{Args, Command, FromArgMatches, ValueEnum};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::extra::Extra;
use super::lengths::Lengths;
use super::plan::{self, Planned};
use super::roster::Roster;

/// Clients at once, where nothing is said.
const CLIENTS: [usize; 3] = [1, 8, 32];
/// Most requests in flight with a rate, where nothing is said: each has a thread.
const MOST_IN_FLIGHT: usize = 1024;

/// What clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Task {
    Generate,
    Classify,
}

/// What is asked, how often, by how many.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Adapters, in turn: names, ranges such as joke-000..099, and "none" for the base
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "none")]
    adapters: Vec<String>,
    /// Draws adapters by Zipf's law with this exponent, the first most often, in place of in turn
    #[arg(long, value_name = "EXPONENT")]
    pub zipf: Option<f64>,
    /// What to ask for
    #[arg(long, value_enum, default_value_t = Task::Generate, value_name = "generate|classify")]
    pub task: Task,
    /// Clients that each ask again when answered, one point for each number [default: 1,8,32]; with --rate, the most requests in flight
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    concurrency: Vec<usize>,
    /// Requests per second, at random (Poisson) times whether or not answers keep up; latencies count from those times
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Requests of each point
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub requests: usize,
    /// Requests before each point that are not counted [default: as many as clients]
    #[arg(long, value_name = "N")]
    warmup: Option<usize>,
    /// Tokens of each prompt, as the server counts them; 5-50: any number between, each as often
    #[arg(long, value_name = "N", default_value = "128")]
    pub prompt_tokens: Lengths,
    /// Of these, the first that are the same in all prompts; the rest is random
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub shared_prefix: usize,
    /// Tokens of each answer; an end of text does not end it
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub output_tokens: usize,
    /// Fields that every request's body has in place of the tool's own, for what only some servers know; "$adapter" is the adapter
    #[arg(long, value_name = "JSON", conflicts_with = "in_process")]
    pub body: Option<Extra>,
    /// Decides prompts, adapters and times. By default different in each run, so that no prompt is known from one before
    #[arg(long, value_name = "N", default_value_t = rand::random_range(0..1_000_000), hide_default_value = true)]
    pub seed: u64,
}

impl Load {
    /// The same load, but for what the flags of a line say.
    pub fn with(&self, line: &str) -> Result<Self> {
        // What a line leaves out is as it was: no defaults. And a line knows of no flags but those of a load.
        let flags = Self::augment_args(Command::new("line").no_binary_name(true).disable_help_flag(true))
            .mut_args(|flag| flag.default_value(Resettable::Reset).conflicts_with(Resettable::Reset));
        let given = flags.try_get_matches_from(line.split_whitespace());
        let given = given.with_context(|| format!("the line {:?} cannot be understood", line.trim()))?;
        let mut load = self.clone();
        load.update_from_arg_matches(&given)?;
        load.check()?;
        Ok(load)
    }

    /// Refuses what cannot be measured.
    pub fn check(&self) -> Result<()> {
        let counts = [("--requests", self.requests), ("--output-tokens", self.output_tokens)];
        for (name, given) in counts.into_iter().chain(self.concurrency.iter().map(|&n| ("--concurrency", n))) {
            if given == 0 {
                bail!("{name} must be at least 1, given 0");
            }
        }
        let (shared, shortest) = (self.shared_prefix, self.prompt_tokens.least);
        if shared > shortest {
            bail!("--shared-prefix must be at most --prompt-tokens, which is {shortest}, given {shared}");
        }
        if let Some(rate) = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            bail!("--rate must be over 0, given {rate}");
        }
        if let Some(zipf) = self.zipf.filter(|zipf| !(zipf.is_finite() && *zipf >= 0.0)) {
            bail!("--zipf must be at least 0, given {zipf}");
        }
        self.roster().map(drop)
    }

    /// Clients of each point.
    pub fn clients(&self) -> Vec<usize> {
        match (self.concurrency.as_slice(), self.rate) {
            ([], None) => CLIENTS.into(),
            ([], Some(_)) => vec![self.requests.min(MOST_IN_FLIGHT)],
            (given, _) => given.into(),
        }
    }

    /// The adapters asked for.
    pub fn roster(&self) -> Result<Roster> {
        Roster::parse(&self.adapters, self.zipf)
    }

    /// The requests of a round. Rounds of one run differ, so that no prompt comes twice.
    pub fn plan(&self, round: u64) -> Result<Vec<Planned>> {
        Ok(plan::make(self.requests, &self.roster()?, self.rate, self.rng(round)))
    }

    /// The requests before a point: as many at once as there are clients.
    pub fn warmup_plan(&self, round: u64, clients: usize) -> Result<Vec<Planned>> {
        Ok(plan::make(self.warmup.unwrap_or(clients.min(self.requests)), &self.roster()?, None, self.rng(round)))
    }

    fn rng(&self, round: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(round);
        rng
    }
}
