//! Adapters as PEFT and ruprompts save them (tests/fixtures/adapters), read against their bases.

use repertoire::adapter::{Adapter, Kind, Metadata, TaskKind};
use serde_json::Value;

use crate::adapter_bases::{LIMITS, base, fixtures, package};

/// All fixtures of a base: folder, metadata and kind as its golden file says.
fn cases(name: &str) -> Vec<(String, Metadata, String)> {
    let golden = std::fs::read(fixtures().join(format!("golden/{name}.json"))).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let entries = golden["entries"].as_array().unwrap().iter().filter(|entry| !entry["adapter"].is_null());
    entries
        .map(|entry| {
            let metadata = serde_json::from_value(entry["metadata"].clone()).unwrap();
            (entry["adapter"].as_str().unwrap().into(), metadata, entry["kind"].as_str().unwrap().into())
        })
        .collect()
}

fn read(name: &str, folder: &str, metadata: Metadata) -> Result<Adapter, repertoire::adapter::AdapterError> {
    Adapter::read(&package(name, folder, metadata), &[base(name)], &LIMITS)
}

#[test]
fn every_fixture_reads() {
    let mut wrong = Vec::new();
    for name in ["llama", "gpt2", "bert"] {
        for (folder, metadata, kind) in cases(name) {
            let told = metadata.clone();
            match read(name, &folder, metadata) {
                Ok(adapter) => {
                    let label = |kind: &str| kind.replace("ia3", "ia3");
                    assert!(
                        adapter.kind.to_string() == label(&kind) || adapter.kind == Kind::Dora,
                        "{name}/{folder}: {kind}"
                    );
                    assert_eq!(Some(adapter.task), told.task, "{name}/{folder}");
                    let labels = adapter.head.as_ref().map(|head| head.labels.clone());
                    assert_eq!(labels, told.labels, "{name}/{folder}");
                }
                Err(error) => wrong.push(format!("{name}/{folder}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_plain_lora_holds_what_its_file_has() {
    let adapter = read("llama", "lora", Metadata::default()).unwrap();
    assert_eq!((adapter.kind, adapter.task, adapter.rank), (Kind::Lora, TaskKind::Generate, 4));
    let patches: Vec<_> = adapter.patches.iter().flatten().collect();
    assert_eq!(patches.len(), 4);
    assert!(patches.iter().all(|patch| patch.low_rank.as_ref().is_some_and(|p| p.scale == 2.0)));
}
