//! `repertoire generate`.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Map, Value, json};

use super::ask::Question;
use super::client::{self, Client, Refusal};
use super::events;

/// What to generate from.
#[derive(Debug, Args)]
pub struct Generate {
    #[command(flatten)]
    question: Question,
    /// Most tokens of the answer
    #[arg(short = 'n', long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Any generation parameter, such as do_sample=true; may be repeated
    #[arg(short, long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<String>,
}

impl Generate {
    /// Prints the answer as it streams.
    pub fn run(self) -> Result<()> {
        let mut body = self.question.body()?;
        body.insert("parameters".into(), Value::Object(self.parameters()?));
        body.insert("stream".into(), json!(true));
        let client = self.question.server.client();
        match client.ask("/v1/generate", &Value::Object(body.clone())) {
            Ok(response) => stream(response.into_body().into_with_config().limit(u64::MAX).reader()),
            // Beams (the adapter's own settings may ask for them) are known only at the end.
            Err(error) if is_about_beams(&error) => {
                body.insert("stream".into(), json!(false));
                whole(&client, body)
            }
            Err(error) => Err(error),
        }
    }

    fn parameters(&self) -> Result<Map<String, Value>> {
        let mut parameters = Map::new();
        for parameter in &self.parameters {
            let (name, value) = parameter
                .split_once('=')
                .with_context(|| format!("--parameter must be NAME=VALUE, given {parameter:?}"))?;
            parameters.insert(name.into(), serde_json::from_str(value).unwrap_or_else(|_| json!(value)));
        }
        if let Some(tokens) = self.max_new_tokens {
            parameters.insert("max_new_tokens".into(), json!(tokens));
        }
        Ok(parameters)
    }
}

fn is_about_beams(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.param.as_deref() == Some("parameters.num_beams"))
}

fn stream(body: impl std::io::Read) -> Result<()> {
    let mut out = std::io::stdout().lock();
    // Several sequences come interleaved: the first is shown as it comes, the others after it.
    let mut others: BTreeMap<u64, String> = BTreeMap::new();
    events::read(body, |event| {
        let text = event["text"].as_str().unwrap_or_default();
        match event["sequence"].as_u64().unwrap_or_default() {
            0 => {
                out.write_all(text.as_bytes())?;
                out.flush()?;
            }
            other => others.entry(other).or_default().push_str(text),
        }
        Ok(())
    })?;
    writeln!(out)?;
    for text in others.values() {
        writeln!(out, "{text}")?;
    }
    Ok(())
}

fn whole(client: &Client, body: Map<String, Value>) -> Result<()> {
    let answer = client::json(client.ask("/v1/generate", &Value::Object(body))?)?;
    for output in answer["outputs"].as_array().into_iter().flatten() {
        println!("{}", output["text"].as_str().unwrap_or_default());
    }
    Ok(())
}
