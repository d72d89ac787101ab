//! A server over HTTP.

mod calibration;
mod native;
mod openai;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::extra::Extra;
use super::load::{Load, Task};
use super::prompts::Prompts;
use super::target::{Heard, Target};
use crate::cli::client::{Client, Server, json};
use crate::cli::events;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Api {
    Native,
    Openai,
}

/// What each request of a load has in common.
struct Asked {
    api: Api,
    task: Task,
    base: Option<String>,
    output_tokens: usize,
    extra: Option<Extra>,
}

/// A server, and prompts that are made for it.
pub struct Http {
    client: Client,
    url: String,
    asked: Asked,
    prompts: Prompts,
}

impl Http {
    /// Connects to a server and learns how it counts tokens.
    pub fn connect(server: Server, api: Api, base: Option<String>, load: &Load) -> Result<Self> {
        let url = server.url().to_owned();
        let client = if api == Api::Openai { server.fresh_client() } else { server.client() };
        let asked = Asked::of(load, api, base)?;
        let prompts = calibration::run(&client, &asked, load)?;
        Ok(Self { client, url, asked, prompts })
    }

    /// What is measured, for people.
    pub fn title(&self) -> String {
        let api = if self.asked.api == Api::Native { "native" } else { "OpenAI's" };
        format!("{} ({api} interface)", self.url)
    }
}

impl Asked {
    fn of(load: &Load, api: Api, base: Option<String>) -> Result<Self> {
        if api == Api::Openai && load.task == Task::Classify {
            bail!("--task classify needs --api native: OpenAI's interface has no classification");
        }
        let (task, output_tokens, extra) = (load.task, load.output_tokens, load.body.clone());
        Ok(Self { api, task, base, output_tokens, extra })
    }

    fn path(&self) -> &'static str {
        match (self.api, self.task) {
            (Api::Native, Task::Generate) => "/v1/generate",
            (Api::Native, Task::Classify) => "/v1/classify",
            (Api::Openai, _) => "/v1/completions",
        }
    }

    /// Tokens that the server did not compute anew, if it says so.
    fn cached(&self, usage: &Value) -> Option<usize> {
        count(match self.api {
            Api::Native => &usage["cached_tokens"],
            Api::Openai => &usage["prompt_tokens_details"]["cached_tokens"],
        })
    }

    fn body(&self, adapter: Option<&str>, prompt: &str, output_tokens: usize, stream: bool) -> Result<Value> {
        let base = self.base.as_deref();
        let mut body = match (self.api, self.task) {
            (Api::Native, Task::Generate) => native::generate(adapter, base, prompt, output_tokens, stream),
            (Api::Native, Task::Classify) => native::classify(adapter, base, prompt),
            (Api::Openai, _) => {
                let model = adapter.or(base).context("--model must name the model of requests without an adapter")?;
                openai::complete(model, prompt, output_tokens, stream)
            }
        };
        if let Some(extra) = &self.extra {
            extra.put(&mut body, adapter);
        }
        Ok(body)
    }
}

impl Target for Http {
    type Question = Value;
    const BLOCKS: bool = true;

    fn turn_to(&mut self, load: &Load) -> Result<()> {
        self.asked = Asked::of(load, self.asked.api, self.asked.base.take())?;
        self.prompts = calibration::run(&self.client, &self.asked, load)?;
        Ok(())
    }

    fn prepare(&self, adapter: Option<&str>, rng: &mut ChaCha8Rng) -> Result<Value> {
        let prompt = self.prompts.text(adapter, rng).context("--prompt-tokens leaves no prompt")?;
        self.asked.body(adapter, &prompt, self.asked.output_tokens, self.asked.task == Task::Generate)
    }

    async fn ask(&self, question: Value, heard: &mut Heard) -> Result<()> {
        let response = self.client.ask(self.asked.path(), &question)?;
        if self.asked.task == Task::Classify {
            let answer = json(response)?;
            heard.at.push(std::time::Instant::now());
            heard.prompt_tokens = count(&answer["usage"]["prompt_tokens"]);
            return Ok(());
        }
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let says_token = if self.asked.api == Api::Native { native::is_token } else { openai::is_token };
        let mut counted = None;
        events::read(&mut body, |event| {
            // Errors of other servers, whose shape is not ours.
            if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
                bail!("the stream ended with an error: {error}");
            }
            if says_token(event) {
                heard.token();
            }
            let usage = &event["usage"];
            heard.prompt_tokens = count(&usage["prompt_tokens"]).or(heard.prompt_tokens);
            heard.cached_tokens = self.asked.cached(usage).or(heard.cached_tokens);
            counted = count(&usage["completion_tokens"]).or(counted);
            Ok(())
        })?;
        // Events may hold several tokens, or none that can be shown yet.
        heard.output_tokens = counted.unwrap_or(heard.output_tokens);
        // Read to its end, or the connection cannot be used again.
        std::io::copy(&mut body, &mut std::io::sink()).context("the answer broke off")?;
        Ok(())
    }
}

fn count(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|count| usize::try_from(count).ok())
}
