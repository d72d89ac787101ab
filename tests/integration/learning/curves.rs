//! Fifty steps from the same adapter, with the same data and settings, beside PEFT and torch (scripts/fixtures/learning.py).

use candle_core::DType;
use repertoire::model::Targets;
use repertoire::model::load::Precision;
use repertoire::train::{AdamW, MicroBatch, Parameters, Schedule, Step, Stepped};
use serde_json::Value;

use crate::golden::bench::{Bench, fixtures, read};

/// How far a loss may be off, relative, and a gradient's norm; and both at the first step, before roundings grow.
const TOLERANCE: (f64, f64) = (1e-3, 2e-2);
const AT_FIRST: (f64, f64) = (1e-5, 5e-5);

/// Runs an entry of a base's file, its rows in micro-batches of `together`.
fn check(base: &str, entry: &Value, together: usize) {
    let name = entry["adapter"].as_str().unwrap();
    let mut model = Bench::model(base, Precision::As(DType::F32), None);
    let sites = model.sites().clone();
    let adapter = read(&sites, base, name, serde_json::from_value(entry["metadata"].clone()).unwrap());
    let leading = adapter.virtual_tokens.as_ref().map_or(0, |v| v.count());
    let mut parameters = Parameters::of(&adapter, &sites).unwrap();
    let optimizer = AdamW {
        weight_decay: entry["weight_decay"].as_f64().unwrap(),
        max_grad_norm: entry["max_grad_norm"].as_f64(),
        ..AdamW::default()
    };
    let batches: Vec<Vec<MicroBatch>> = list(&entry["batches"])
        .iter()
        .map(|rows| list(rows).chunks(together).map(|rows| micro_batch(rows, sites.vocab, leading)).collect())
        .collect();
    let (losses, norms) = (floats(&entry["losses"]), floats(&entry["grad_norms"]));
    let steps = losses.len();
    for (i, (expected, norm)) in losses.into_iter().zip(norms).enumerate() {
        let rate = entry["learning_rate"].as_f64().unwrap() * Schedule::Linear.share(i, 0, steps);
        let room = if i % 2 == 0 { 0 } else { usize::MAX };
        let mut step = Step::new(&mut parameters, batches[i % batches.len()].clone(), room).unwrap();
        let stepped = loop {
            let done = step.advance(&mut *model, &mut parameters, &optimizer, rate, i as u64 + 1).unwrap();
            if let Some(stepped) = done {
                break stepped;
            }
        };
        let Stepped { loss, gradient_norm } = stepped;
        let what = format!("{base} {name}, step {i} of micro-batches of {together}");
        let (of_loss, of_norm) = if i == 0 { AT_FIRST } else { TOLERANCE };
        assert!((loss - expected).abs() <= of_loss * expected, "{what}: loss {loss}, PEFT's {expected}");
        assert!((gradient_norm - norm).abs() <= of_norm * norm, "{what}: gradient {gradient_norm}, PEFT's {norm}");
    }
}

fn micro_batch(rows: &[Value], vocab: usize, leading: usize) -> MicroBatch {
    let ids: Vec<Vec<u32>> = rows.iter().map(|row| floats(&row["ids"]).iter().map(|&id| id as u32).collect()).collect();
    let targets = if rows[0]["label"].is_u64() {
        let of_rows = rows.iter().map(|row| row["label"].as_u64().unwrap() as usize).collect();
        Targets::Label { of_rows, weights: None }
    } else if rows[0]["labels"].is_array() {
        let of_rows = rows.iter().map(|row| floats(&row["labels"]).iter().map(|&is| is == 1.0).collect()).collect();
        Targets::Labels { of_rows, weights: None }
    } else {
        let mut first = 0;
        let mut tokens = Vec::new();
        for (row, ids) in rows.iter().zip(&ids) {
            let from = row["labels_from"].as_u64().unwrap() as usize;
            // A token is asked of the line before its own.
            tokens.extend((from..ids.len()).map(|at| (first + leading + at - 1, ids[at])));
            first += leading + ids.len();
        }
        Targets::Tokens(tokens)
    };
    let before = (0..leading).map(|i| (vocab + i) as u32);
    MicroBatch { rows: ids.into_iter().map(|ids| before.clone().chain(ids).collect()).collect(), targets }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    list(value).iter().map(|number| number.as_f64().unwrap()).collect()
}

fn check_all(base: &str) {
    let file = std::fs::read(fixtures().join(format!("learning/{base}.json"))).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    let entries = list(file.get("entries").unwrap_or(&file));
    assert!(entries.len() >= 5, "{base}: {} entries", entries.len());
    for entry in entries {
        check(base, entry, 4);
    }
    check(base, &entries[0], 1);
}

#[test]
fn llama_learns_as_peft_does() {
    check_all("llama");
}

#[test]
fn gpt2_learns_as_peft_does() {
    check_all("gpt2");
}

#[test]
fn bert_learns_as_peft_does() {
    check_all("bert");
}
