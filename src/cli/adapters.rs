//! `repertoire adapters`.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{self, Client, Server, segment};

/// What to do with adapters.
#[derive(Debug, Args)]
pub struct Adapters {
    #[command(subcommand)]
    command: Option<Action>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all adapters (the default)
    List,
    /// Show an adapter and its versions
    Show { id: String },
    /// Go back to an older version
    Rollback { id: String, version: u32 },
    /// Delete an adapter
    Rm { id: String },
}

/// Columns of the table, and the fields they show.
const COLUMNS: [(&str, &str); 9] = [
    ("ID", "id"),
    ("VERSION", "version"),
    ("KIND", "kind"),
    ("TASK", "task"),
    ("BASE", "base"),
    ("RANK", "rank"),
    ("BYTES", "bytes"),
    ("WHERE", "residency"),
    ("DESCRIPTION", "description"),
];

impl Adapters {
    /// Does it.
    pub fn run(self) -> Result<()> {
        let client = self.server.client();
        match self.command.unwrap_or(Action::List) {
            Action::List => {
                let all = list(&client)?;
                if all.is_empty() && !self.json {
                    println!("no adapters; `repertoire push ID PATH` publishes one");
                    return Ok(());
                }
                show(&all, self.json)
            }
            Action::Show { id } => {
                let info = client.call("GET", &format!("/v1/adapters/{}", segment(&id)))?;
                if self.json {
                    return show(&[info], true);
                }
                for (name, value) in info.as_object().into_iter().flatten() {
                    println!("{name:12} {}", plain(value));
                }
                let name = id.split('@').next().unwrap_or_default();
                let versions = client.call("GET", &format!("/v1/adapters/{}/versions", segment(name)))?;
                let versions = versions["data"].as_array().into_iter().flatten();
                let versions =
                    versions.map(|version| format!("{} ({})", version["version"], plain(&version["created_at"])));
                println!("{:12} {}", "versions", versions.collect::<Vec<_>>().join(", "));
                Ok(())
            }
            Action::Rollback { id, version } => {
                let path = format!("/v1/adapters/{}/rollback", segment(&id));
                let info = client::json(client.ask(&path, &json!({ "version": version }))?)?;
                if self.json {
                    return show(&[info], true);
                }
                println!("{} is version {} again", plain(&info["id"]), info["version"]);
                Ok(())
            }
            Action::Rm { id } => {
                client.call("DELETE", &format!("/v1/adapters/{}", segment(&id)))?;
                if self.json {
                    println!("{}", serde_json::to_string_pretty(&json!({ "id": id, "deleted": true }))?);
                    return Ok(());
                }
                println!("{id} is deleted; requests that run with it end as they began");
                Ok(())
            }
        }
    }
}

fn list(client: &Client) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page = client.call("GET", &format!("/v1/adapters?limit=1000{after}"))?;
        all.extend(page["data"].as_array().into_iter().flatten().cloned());
        match all.last() {
            Some(last) if page["has_more"] == true => after = format!("&after={}", segment(&plain(&last["id"]))),
            _ => return Ok(all),
        }
    }
}

fn show(infos: &[Value], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(infos)?);
        return Ok(());
    }
    let mut rows = vec![COLUMNS.map(|(title, _)| title.to_owned())];
    rows.extend(infos.iter().map(|info| COLUMNS.map(|(_, field)| plain(&info[field]))));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    Ok(())
}

/// A value as people read it. What came over the wire cannot move the cursor.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        other => other.to_string(),
    }
}
