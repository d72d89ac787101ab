//! A steady decode step takes no memory of a page or more from the system. A binary of its own: it counts what its allocator hands out.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap as tests do")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use repertoire::app::{Ensemble, load_ensemble};
use repertoire::config::{Config, Overrides};
use repertoire::engine::{Event, Parameters, Request, Work};
use serde_json::{Value, json};

/// Bytes from which an allocation counts.
const LARGE: usize = 4096;
/// Tokens that are read of each request; steps are steady between so many: all prompts are over.
const STEADY: std::ops::Range<usize> = 12..40;
/// Tokens that are asked for: far more, so that none ends while they are read, even if the reader is late on a busy machine.
const TOKENS: usize = 200;

struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static SIZES: [AtomicUsize; 32] = [const { AtomicUsize::new(0) }; 32];

fn count(bytes: usize) {
    if bytes >= LARGE && ON.load(SeqCst) {
        let at = COUNT.fetch_add(1, SeqCst);
        SIZES[at % SIZES.len()].store(bytes, SeqCst);
    }
}

// SAFETY: everything is the system's allocator's own doing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller vouches.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as the caller vouches.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Two rows of the base, two each of LoRA and IA3, a prompt and a prefix.
const MIXED: [&str; 8] = [
    "",
    "",
    "bench-lora-0000",
    "bench-lora-0001",
    "bench-ia3-0000",
    "bench-ia3-0001",
    "bench-prompt_tuning-0000",
    "bench-prefix_tuning-0000",
];

/// Eight rows, eight adapters.
const DISTINCT: [&str; 8] = [
    "bench-lora-0000",
    "bench-lora-0001",
    "bench-lora-0002",
    "bench-lora-0003",
    "bench-lora-0004",
    "bench-lora-0005",
    "bench-lora-0006",
    "bench-lora-0007",
];

fn configure(folder: &Path, base: &Value) -> Config {
    std::fs::create_dir_all(folder.join("base")).unwrap();
    std::fs::write(folder.join("base/config.json"), base.to_string()).unwrap();
    let path = folder.join("config.toml");
    let at = folder.display();
    let text = format!(
        "[[bases]]\nname = \"dummy\"\nsource = \"dummy://{at}/base\"\n[adapters]\nstore = \"{at}/store\"\n[database]\nurl = \"sqlite://{at}/data/r.db\"\n"
    );
    std::fs::write(&path, text).unwrap();
    for (kind, count) in [("lora", "8"), ("ia3", "2"), ("prompt_tuning", "1"), ("prefix_tuning", "1")] {
        let made = Command::new(env!("CARGO_BIN_EXE_repertoire"))
            .args(["bench", "--count", count, "--kind", kind, "--targets", "all-linear", "--make-adapters"])
            .arg(folder.join("store"))
            .arg("--config")
            .arg(&path)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    Config::load(Some(&path), Overrides::default()).unwrap()
}

/// The sizes of large allocations in steady steps of such rows, side by side.
fn steady_allocations(ensemble: &Ensemble, rows: [&str; 8]) -> Vec<usize> {
    let engine = &ensemble.engines[0];
    let vocab = engine.sites().vocab as u32;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // All are resident before the first one starts.
    let lease = |name: &str| (!name.is_empty()).then(|| ensemble.registry.lease(&name.parse().unwrap()).unwrap());
    let leases: Vec<_> = rows.into_iter().map(lease).collect();
    let mut streams: Vec<_> = (0..)
        .zip(leases)
        .map(|(row, adapter)| {
            let virtual_tokens = adapter.as_ref().map_or(0, |lease| lease.leading_virtual_tokens()) as u32;
            let prompt = (vocab..vocab + virtual_tokens).chain((0..6).map(|i| 10 + row * 7 + i)).collect();
            let parameters = Parameters { max_new_tokens: TOKENS, ignore_eos: true, ..Parameters::default() };
            let work = Work::Generate(parameters);
            engine.submit(Request { prompt, adapter, work, priority: 0, timeout: None }).unwrap()
        })
        .collect();
    COUNT.store(0, SeqCst);
    for token in 0..=STEADY.end {
        ON.store(STEADY.contains(&token), SeqCst);
        for stream in &mut streams {
            let event = runtime.block_on(stream.next());
            assert!(matches!(event, Some(Event::Token { .. })), "{event:?}");
        }
    }
    let count = COUNT.load(SeqCst).min(SIZES.len());
    SIZES[..count].iter().map(|size| size.load(SeqCst)).collect()
}

#[test]
fn a_steady_step_takes_no_large_piece_of_memory() {
    let llama = json!({
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 2, "vocab_size": 4096,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 256, "tie_word_embeddings": true
    });
    let gpt2 = json!({
        "model_type": "gpt2", "n_embd": 576, "n_inner": 1536, "n_layer": 2, "n_head": 9, "n_positions": 256,
        "vocab_size": 4096
    });
    for base in [llama, gpt2] {
        let folder = tempfile::tempdir().unwrap();
        let ensemble = load_ensemble(&configure(folder.path(), &base)).unwrap();
        for rows in [MIXED, DISTINCT] {
            // Where others keep the machine busy, the reader falls behind and the queue of its tokens grows (7,760 bytes at a
            // time). What steps take, they take each time.
            let none_taken = || {
                let taken = steady_allocations(&ensemble, rows);
                eprintln!("{} {rows:?}: {taken:?}", base["model_type"]);
                taken.is_empty()
            };
            assert!((0..3).any(|_| none_taken()), "steady steps took memory in each of three counts");
        }
    }
}
