//! The engines of this process, without HTTP and without a tokenizer.

use anyhow::{Context, Result, bail};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::spawn_blocking;

use super::load::{Load, Task};
use super::target::{Heard, Target};
use crate::adapter::{AdapterRef, Lease, TaskKind};
use crate::app::{self, Ensemble};
use crate::config::Config;
use crate::engine::{Engine, Event, Parameters, Request, Work};

/// Bases and adapters as a server has them.
pub struct Engines {
    ensemble: Ensemble,
    /// The one that answers requests without an adapter.
    base: Engine,
    load: Load,
}

/// Numbers out of which token ids are made, once the base is known; and the adapter.
pub struct Question {
    adapter: Option<AdapterRef>,
    numbers: Vec<u32>,
}

impl Engines {
    /// Loads what the configuration names.
    pub fn load(config: &Config, base: Option<&str>, load: &Load) -> Result<Self> {
        let ensemble = app::load_ensemble(config)?;
        let engines = &ensemble.engines;
        let names = || engines.iter().map(|engine| engine.sites().base.as_str()).collect::<Vec<_>>().join(", ");
        let base = match base {
            None => engines.first().context("the configuration has no base")?,
            Some(name) => engines
                .iter()
                .find(|engine| engine.sites().answers_to(name))
                .with_context(|| format!("base {name:?} does not exist; there are: {}", names()))?,
        };
        Ok(Self { base: base.clone(), load: load.clone(), ensemble })
    }

    /// What is measured, for people.
    pub fn title(&self) -> String {
        format!("in this process, base {}, {} compute threads", self.base.sites().base, app::compute_threads())
    }

    /// The engine of an adapter's base, and the lease; loads the adapter if it is not resident.
    async fn resolve(&self, adapter: Option<AdapterRef>) -> Result<(&Engine, Option<Lease>)> {
        let Some(reference) = adapter else { return Ok((&self.base, None)) };
        let registry = &self.ensemble.registry;
        let lease = match registry.lease_resident(&reference) {
            Some(lease) => lease,
            // Other clients of the thread do not wait for it.
            None => {
                let (registry, reference) = (registry.clone(), reference.clone());
                spawn_blocking(move || registry.lease(&reference)).await??
            }
        };
        let mut engines = self.ensemble.engines.iter();
        let engine = engines.find(|engine| engine.sites().base == lease.base);
        let engine = engine.with_context(|| format!("base {} of adapter {reference} is not loaded", lease.base))?;
        Ok((engine, Some(lease)))
    }

    /// The engine runs what it is given; what HTTP would refuse must not be measured either.
    fn check(&self, engine: &Engine, lease: Option<&Lease>) -> Result<()> {
        let name = &engine.sites().base;
        match (self.load.task, lease) {
            (Task::Classify, lease) if lease.is_none_or(|lease| lease.head.is_none()) => {
                bail!("--task classify needs adapters with a head, on base {name}")
            }
            (Task::Generate, Some(lease)) if lease.task == TaskKind::Classify => {
                bail!("an adapter on base {name} classifies; measure it with --task classify")
            }
            (Task::Generate, _) if !engine.sites().causal => bail!("base {name} is an encoder and does not generate"),
            _ => Ok(()),
        }
    }
}

impl Target for Engines {
    type Question = Question;
    const BLOCKS: bool = false;

    fn turn_to(&mut self, load: &Load) -> Result<()> {
        self.load = load.clone();
        Ok(())
    }

    fn prepare(&self, adapter: Option<&str>, rng: &mut ChaCha8Rng) -> Result<Question> {
        let tokens = self.load.prompt_tokens.draw(rng);
        let mut shared = ChaCha8Rng::seed_from_u64(self.load.seed);
        let number = |at: usize| if at < self.load.shared_prefix { shared.random() } else { rng.random() };
        Ok(Question { numbers: (0..tokens).map(number).collect(), adapter: adapter.map(str::parse).transpose()? })
    }

    async fn ask(&self, question: Question, heard: &mut Heard) -> Result<()> {
        let (engine, adapter) = self.resolve(question.adapter).await?;
        self.check(engine, adapter.as_ref())?;
        let vocab = engine.sites().vocab as u32;
        let virtual_tokens =
            adapter.as_ref().and_then(|lease| lease.virtual_tokens.as_ref()).map_or(0, |tokens| tokens.count()) as u32;
        let id = |number: u32| {
            let id = number % vocab;
            // A decoder's head would leave padding at the end out.
            if Some(id) == engine.sites().pad { (id + 1) % vocab } else { id }
        };
        let prompt = (vocab..vocab + virtual_tokens).chain(question.numbers.into_iter().map(id)).collect();
        let work = match self.load.task {
            Task::Classify => Work::Classify,
            Task::Generate => Work::Generate(Parameters {
                max_new_tokens: self.load.output_tokens,
                ignore_eos: true,
                ..Parameters::default()
            }),
        };
        let mut events = engine.submit(Request { prompt, adapter, work, priority: 0, timeout: None })?;
        while let Some(event) = events.next().await {
            match event {
                Event::Token { .. } => heard.token(),
                Event::Scores(_) => heard.at.push(std::time::Instant::now()),
                Event::Finished { .. } => {}
                Event::Done(usage) => {
                    heard.prompt_tokens = Some(usage.prompt_tokens);
                    heard.cached_tokens = Some(usage.cached_tokens);
                    heard.output_tokens = usage.completion_tokens;
                    return Ok(());
                }
                Event::Failed(error) => return Err(error.into()),
            }
        }
        bail!("the engine stopped")
    }
}
