//! Learns how a server counts the tokens of a text: by requests for one token.

use anyhow::{Context, Result};

use super::{Asked, count};
use crate::cli::bench::load::Load;
use crate::cli::bench::prompts::Prompts;
use crate::cli::client::{Client, json};

/// Prompts of the load's length, for the first of its adapters.
pub fn run(client: &Client, asked: &Asked, load: &Load) -> Result<Prompts> {
    let roster = load.roster()?;
    let (tokens, shared, seed) = (load.prompt_tokens, load.shared_prefix, load.seed);
    let tokens_of = |text: &str| -> Result<Option<usize>> {
        let body = asked.body(roster.first(), text, 1, false)?;
        let answer = json(client.ask(asked.path(), &body)?)?;
        Ok(count(&answer["usage"]["prompt_tokens"]))
    };
    if tokens_of("a")?.is_none() {
        eprintln!("the server does not count tokens: each word of a prompt is taken for one");
        return Ok(Prompts::uncounted(tokens, shared, seed));
    }
    Prompts::calibrate(tokens, shared, seed, |text| tokens_of(text)?.context("the server stopped counting tokens"))
        .context("prompts cannot be made")
}
