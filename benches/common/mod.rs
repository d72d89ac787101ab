//! Bases with random weights, made adapters, and batches through the engine: what the benchmarks have in common.

#![allow(
    dead_code,
    reason = "each benchmark is a crate of its own, as it loads a base of its own, and uses a part of this"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use repertoire::app::{Ensemble, load_ensemble};
use repertoire::config::{Config, Overrides};
use repertoire::engine::{Event, EventStream, Parameters, Request, Work};
use tokio::runtime::{Builder, Runtime};

/// One base, its adapters, and a runtime that waits for events.
pub struct Bench {
    ensemble: Ensemble,
    runtime: Runtime,
}

/// A folder with the shape of a model (config.json), for weights that are random.
pub fn shape(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/shapes").join(name)
}

/// The same with fewer layers and tokens, where a whole model would only make a sweep long.
pub fn cut(name: &str, layers: usize, vocab: usize) -> PathBuf {
    let text = std::fs::read_to_string(shape(name).join("config.json")).expect("the shape is there");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("the shape is JSON");
    config["num_hidden_layers"] = layers.into();
    config["vocab_size"] = vocab.into();
    let folder = work().join(format!("{name}-{layers}-{vocab}"));
    std::fs::create_dir_all(&folder).expect("the work folder can be written");
    std::fs::write(folder.join("config.json"), config.to_string()).expect("the work folder can be written");
    folder
}

fn work() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("benches")
}

fn settings(shape: &Path, store: &Path) -> Vec<String> {
    vec![
        "bases.0.name=base".into(),
        format!("bases.0.source=dummy://{}", shape.display()),
        "bases.0.device_memory=256MiB".into(),
        format!("adapters.store={}", store.display()),
    ]
}

/// An empty store; `bench` names it, as a store has one owner.
pub fn store(bench: &str) -> PathBuf {
    let store = work().join(format!("{bench}-adapters"));
    let _ = std::fs::remove_dir_all(&store);
    std::fs::create_dir_all(&store).expect("the work folder can be written");
    store
}

/// Makes adapters `<prefix>bench-<kind>-0000` and so on, with the tool that is there for it; answers their names.
pub fn make(shape: &Path, store: &Path, kind: &str, count: usize, flags: &[&str]) -> Vec<String> {
    // In a folder of their own first: ranks of one kind have the same names.
    let folder = work().join("made");
    let _ = std::fs::remove_dir_all(&folder);
    let unused = work().join("unused");
    let mut command = Command::new(env!("CARGO_BIN_EXE_repertoire"));
    command.args(["bench", "--kind", kind, "--count", &count.to_string(), "--seed", "1", "--make-adapters"]);
    command.arg(&folder).args(flags);
    for setting in settings(shape, &unused) {
        command.args(["--set", &setting]);
    }
    let made = command.output().expect("repertoire runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let label = flags.concat().replace(|c: char| !c.is_ascii_alphanumeric(), "");
    (0..count)
        .map(|number| {
            let name = format!("{kind}{label}-{number}");
            std::fs::rename(folder.join(format!("bench-{kind}-{number:04}")), store.join(&name)).expect("it was made");
            name
        })
        .collect()
}

impl Bench {
    /// Loads a shape and whatever is in the store.
    pub fn load(shape: &Path, store: &Path) -> Self {
        let mut overrides = Overrides::default();
        for setting in settings(shape, store) {
            overrides = overrides.assignment(&setting).expect("a setting");
        }
        let config = Config::load(None, overrides).expect("a configuration");
        let ensemble = load_ensemble(&config).expect("a base");
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        Self { ensemble, runtime }
    }

    fn submit(&self, adapter: Option<&str>, prompt: usize, salt: u32, work: Work) -> EventStream {
        let engine = &self.ensemble.engines[0];
        let lease =
            adapter.map(|name| self.ensemble.registry.lease(&name.parse().expect("a name")).expect("an adapter"));
        let vocab = engine.sites().vocab as u32;
        // Prompts differ, so that none is known from one before. Low ids are special.
        let prompt =
            (0..prompt as u32).map(|at| 3 + (salt.wrapping_mul(2_654_435_761) ^ at.wrapping_mul(40_503)) % (vocab - 3));
        let request = Request { prompt: prompt.collect(), adapter: lease, work, priority: 0, timeout: None };
        engine.submit(request).expect("a request")
    }

    /// Waits until a request has given `events` events; fewer if it ends.
    fn hear(&self, stream: &mut EventStream, events: usize) {
        for _ in 0..events {
            match self.runtime.block_on(stream.next()) {
                Some(Event::Failed(error)) => panic!("{error}"),
                Some(Event::Done(_)) | None => return,
                Some(_) => {}
            }
        }
    }

    /// A row for each adapter (`None`: the base), generating together: the time from the last prompt's end to the last token.
    pub fn decode(&self, rows: &[Option<&str>], tokens: usize, salt: &mut u32) -> Duration {
        let generate =
            || Work::Generate(Parameters { max_new_tokens: tokens, ignore_eos: true, ..Parameters::default() });
        let mut streams: Vec<EventStream> = rows
            .iter()
            .map(|adapter| {
                *salt += 1;
                self.submit(*adapter, 8, *salt, generate())
            })
            .collect();
        streams.iter_mut().for_each(|stream| self.hear(stream, 1));
        let start = Instant::now();
        streams.iter_mut().for_each(|stream| self.hear(stream, usize::MAX));
        start.elapsed()
    }

    /// One prompt, to its first token.
    pub fn prefill(&self, adapter: Option<&str>, prompt: usize, salt: &mut u32) {
        *salt += 1;
        let work = Work::Generate(Parameters { max_new_tokens: 1, ignore_eos: true, ..Parameters::default() });
        self.hear(&mut self.submit(adapter, prompt, *salt, work), usize::MAX);
    }

    /// Texts of these lengths at once, each under the next adapter.
    pub fn classify(&self, adapters: &[String], lengths: &[usize], salt: &mut u32) {
        let texts = lengths.iter().zip(adapters.iter().cycle());
        let mut streams: Vec<EventStream> = texts
            .map(|(&length, adapter)| {
                *salt += 1;
                self.submit(Some(adapter), length, *salt, Work::Classify)
            })
            .collect();
        streams.iter_mut().for_each(|stream| self.hear(stream, usize::MAX));
    }
}
