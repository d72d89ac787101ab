//! Learns how a server counts the tokens of a text: by requests for one token.

use anyhow::{Context, Result};

use super::{Asked, count};
use crate::cli::bench::load::Load;
use crate::cli::bench::prompts::Prompts;
use crate::cli::client::{Client, json};

/// Most adapters that are asked one by one whether a prompt format of theirs makes prompts longer.
const ASKED: usize = 64;

/// Prompts of the load's length.
pub fn run(client: &Client, asked: &Asked, load: &Load) -> Result<Prompts> {
    let roster = load.roster()?;
    let first = roster.first();
    let (lengths, shared, seed) = (load.prompt_tokens, load.shared_prefix, load.seed);
    let tokens_of = |adapter: Option<&str>, text: &str| -> Result<Option<usize>> {
        let body = asked.body(adapter, text, 1, false)?;
        let answer = json(client.ask(asked.path(), &body)?)?;
        Ok(count(&answer["usage"]["prompt_tokens"]))
    };
    let counted =
        |adapter: Option<&str>, text: &str| tokens_of(adapter, text)?.context("the server stopped counting tokens");
    if tokens_of(first, "a")?.is_none() {
        eprintln!("the server does not count tokens: each word of a prompt is taken for one");
        return Ok(Prompts::uncounted(lengths, shared, seed));
    }
    let mut prompts =
        Prompts::calibrate(lengths, shared, seed, |text| counted(first, text)).context("prompts cannot be made")?;
    for adapter in roster.different().filter(|adapter| *adapter != first).take(ASKED) {
        // What fails here fails again when it is measured, and is counted there.
        let _ = prompts.learn(adapter, |text| counted(adapter, text));
    }
    Ok(prompts)
}
