//! `repertoire push`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use serde_json::Value;

use crate::adapter::{Metadata, Package};

use super::client::{Server, json};

/// What to publish under which name.
#[derive(Debug, Args)]
pub struct Push {
    /// The adapter's name; a known one gets a new version
    id: String,
    /// The adapter's folder, or a .zip or .tar.gz of it
    path: PathBuf,
    /// Metadata as JSON, or @FILE [default: the folder's repertoire.json, if there is one]
    #[arg(long, value_name = "JSON|@FILE")]
    metadata: Option<String>,
    #[command(flatten)]
    server: Server,
}

impl Push {
    /// Uploads and says what came of it.
    pub fn run(self) -> Result<()> {
        let files = files(&self.path)?;
        let form = Form::new(&self.id, &files, self.metadata()?.as_deref());
        let answer = self.server.client().send("/v1/adapters", &form.content_type(), &form.body);
        let info = json(answer?)?;
        let text = |name: &str| {
            info.get(name).map_or_else(String::new, |value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
        };
        println!(
            "{}@{} is published: {}, rank {}, {} parameters, for base {}",
            text("id"),
            text("version"),
            text("kind"),
            text("rank"),
            text("parameters"),
            text("base")
        );
        let task = if text("task") == "classify" { "classify" } else { "generate" };
        println!("next: repertoire {task} {} \"...\"", text("id"));
        Ok(())
    }

    fn metadata(&self) -> Result<Option<String>> {
        let text = match &self.metadata {
            Some(given) => match given.strip_prefix('@') {
                Some(file) => std::fs::read_to_string(file).with_context(|| format!("--metadata {given}"))?,
                None => given.clone(),
            },
            None => match std::fs::read_to_string(self.path.join("repertoire.json")) {
                Ok(text) => text,
                Err(_) => return Ok(None),
            },
        };
        serde_json::from_str::<Metadata>(&text).context("metadata is not as POST /v1/adapters takes it")?;
        Ok(Some(text))
    }
}

type Files = Vec<(String, Bytes)>;

/// The adapter's files in a folder (checked here: a wrong folder should not travel), or the one archive.
fn files(path: &Path) -> Result<Files> {
    let read = |path: &Path| std::fs::read(path).map(Bytes::from).with_context(|| path.display().to_string());
    if !path.exists() {
        bail!("{} does not exist", path.display());
    }
    if path.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(vec![(name, read(path)?)]);
    }
    let package = read_folder(path)?;
    Ok(package.files.into_iter().collect())
}

/// The adapter in a folder.
pub fn read_folder(folder: &Path) -> Result<Package> {
    let mut files = Files::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // A training folder may hold gigabytes of optimizer state: that is not even read.
        if path.is_file() && (name.starts_with("adapter_") || name.starts_with("prompt")) {
            let content = std::fs::read(&path).with_context(|| path.display().to_string())?;
            files.push((name.to_owned(), Bytes::from(content)));
        }
    }
    Package::from_files(files, Metadata::default()).with_context(|| format!("{} holds no adapter", folder.display()))
}

/// A multipart form.
struct Form {
    boundary: String,
    body: Vec<u8>,
}

impl Form {
    fn new(id: &str, files: &[(String, Bytes)], metadata: Option<&str>) -> Self {
        // Random: it must not stand in a file.
        let mut form = Self { boundary: format!("repertoire-{}", uuid::Uuid::now_v7().simple()), body: Vec::new() };
        form.part("name=\"id\"", id.as_bytes());
        if let Some(metadata) = metadata {
            form.part("name=\"metadata\"", metadata.as_bytes());
        }
        for (name, content) in files {
            let name = name.replace('"', "%22").replace(['\r', '\n'], "");
            form.part(&format!("name=\"files\"; filename=\"{name}\""), content);
        }
        form.body.extend_from_slice(format!("--{}--\r\n", form.boundary).as_bytes());
        form
    }

    fn part(&mut self, disposition: &str, content: &[u8]) {
        let head = format!("--{}\r\ncontent-disposition: form-data; {disposition}\r\n\r\n", self.boundary);
        self.body.extend_from_slice(head.as_bytes());
        self.body.extend_from_slice(content);
        self.body.extend_from_slice(b"\r\n");
    }

    fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }
}
