//! `repertoire classify`.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::ask::Question;
use super::client;

/// What to classify.
#[derive(Debug, Args)]
pub struct Classify {
    #[command(flatten)]
    question: Question,
    /// Multi-label: labels over it are predicted [default: 0.5]
    #[arg(long)]
    threshold: Option<f32>,
    /// Most labels to print
    #[arg(short = 'k', long)]
    top_k: Option<usize>,
}

impl Classify {
    /// Prints labels from the best to the worst; the predicted ones have a star.
    pub fn run(self) -> Result<()> {
        let mut body = self.question.body()?;
        if let Some(threshold) = self.threshold {
            body.insert("threshold".into(), json!(threshold));
        }
        if let Some(top_k) = self.top_k {
            body.insert("top_k".into(), json!(top_k));
        }
        let client = self.question.server.client();
        let answer = client::json(client.ask("/v1/classify", &Value::Object(body))?)?;
        for result in answer["results"].as_array().into_iter().flatten() {
            let predicted = result["predicted"].as_array().cloned().unwrap_or_default();
            for label in result["labels"].as_array().into_iter().flatten() {
                let star = if predicted.contains(&label["label"]) { '*' } else { ' ' };
                println!(
                    "{star} {:.4}  {}",
                    label["score"].as_f64().unwrap_or_default(),
                    label["label"].as_str().unwrap_or_default()
                );
            }
        }
        Ok(())
    }
}
