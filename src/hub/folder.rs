//! A base or an adapter that is on disk already.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::source::is_name;
use super::{ADAPTERS, HubError, ModelFiles, Weights, existing};

/// What `model.safetensors` is called when it is in parts.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// A folder in Hugging Face's layout, or with one GGUF file.
pub(super) fn model(folder: &Path) -> Result<ModelFiles, HubError> {
    check(folder)?;
    let weights = if folder.join("model.safetensors").is_file() {
        Weights::Safetensors(vec![folder.join("model.safetensors")])
    } else if folder.join(INDEX).is_file() {
        let shards = shards(&folder.join(INDEX))?;
        Weights::Safetensors(shards.iter().map(|name| existing(folder, name)).collect::<Result<_, _>>()?)
    } else if folder.join("pytorch_model.bin").is_file() {
        Weights::Pickle(zip_form(folder.join("pytorch_model.bin"))?)
    } else if folder.join("pytorch_model.bin.index.json").is_file() {
        let reason = "pytorch_model.bin in several parts is not read".to_owned();
        let path = folder.join("pytorch_model.bin.index.json");
        return Err(HubError::Convert { path, reason, command: to_safetensors(folder) });
    } else {
        return gguf(&only_gguf(folder)?);
    };
    Ok(ModelFiles { folder: folder.to_owned(), config: Some(existing(folder, "config.json")?), weights })
}

/// One GGUF file.
pub(super) fn gguf(path: &Path) -> Result<ModelFiles, HubError> {
    if !path.is_file() {
        return Err(HubError::Source(format!("there is no file {}", path.display())));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(ModelFiles { folder: folder.to_owned(), config: None, weights: Weights::Gguf(path.to_owned()) })
}

/// A folder with config.json.
pub(super) fn dummy(folder: &Path) -> Result<ModelFiles, HubError> {
    check(folder)?;
    let config = Some(existing(folder, "config.json")?);
    Ok(ModelFiles { folder: folder.to_owned(), config, weights: Weights::Dummy })
}

/// A folder with an adapter's two files.
pub(super) fn adapter(folder: &Path) -> Result<PathBuf, HubError> {
    check(folder)?;
    if ADAPTERS.iter().any(|names| names.iter().all(|name| folder.join(name).is_file())) {
        return Ok(folder.to_owned());
    }
    Err(HubError::Lacks { folder: folder.to_owned(), what: adapter_files() })
}

/// For messages.
pub(super) fn adapter_files() -> String {
    ADAPTERS.map(|names| names.join(" and ")).join(", nor ")
}

/// The shards that an index names, in order.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let content = std::fs::read(index).map_err(HubError::io(index))?;
    let wrong = |reason: &str| HubError::Source(format!("{}: {reason}", index.display()));
    let index: Value = serde_json::from_slice(&content).map_err(|error| wrong(&error.to_string()))?;
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| wrong("there is no `weight_map`"))?;
    let names: Option<BTreeSet<String>> = map.values().map(|name| name.as_str().map(str::to_owned)).collect();
    let names = names.filter(|names| !names.is_empty()).ok_or_else(|| wrong("`weight_map` names no files"))?;
    match names.iter().find(|name| !is_name(name)) {
        Some(name) => Err(wrong(&format!("`{name}` is not a file name"))),
        None => Ok(names),
    }
}

fn check(folder: &Path) -> Result<(), HubError> {
    if folder.is_dir() {
        return Ok(());
    }
    let place = folder.display();
    Err(HubError::Source(format!("there is no folder {place}; a model on the hub is written hf://org/repo[@revision]")))
}

/// Torch before 1.6 wrote a stream of pickles, which only torch reads.
fn zip_form(path: PathBuf) -> Result<PathBuf, HubError> {
    let mut magic = [0; 4];
    let read = File::open(&path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) if magic == *b"PK\x03\x04" => return Ok(path),
        Ok(()) => {}
        // Shorter than a zip file can be.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(HubError::Io { path, error }),
    }
    let reason = "this is not the zip form that torch writes since 1.6".to_owned();
    let command = format!(
        "python -c \"import torch; p = '{}'; torch.save(torch.load(p, map_location='cpu', weights_only=True), p)\"",
        path.display()
    );
    Err(HubError::Convert { path, reason, command })
}

/// AutoModel would leave a decoder's output layer out.
fn to_safetensors(folder: &Path) -> String {
    let config = std::fs::read(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let class = if config["model_type"] == "bert" { "AutoModel" } else { "AutoModelForCausalLM" };
    let place = folder.display();
    format!(
        "python -c \"from transformers import {class} as M; M.from_pretrained('{place}').save_pretrained('{place}')\""
    )
}

fn only_gguf(folder: &Path) -> Result<PathBuf, HubError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(HubError::io(folder))? {
        let path = entry.map_err(HubError::io(folder))?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            found.push(path);
        }
    }
    found.sort();
    match found.len() {
        0 => {
            let what =
                format!("weights: model.safetensors, {INDEX} with its shards, pytorch_model.bin or one .gguf file");
            Err(HubError::Lacks { folder: folder.to_owned(), what })
        }
        1 => Ok(found.remove(0)),
        _ => {
            let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
            Err(HubError::Source(format!("several GGUF files, name one as the source: {}", names.join(", "))))
        }
    }
}
