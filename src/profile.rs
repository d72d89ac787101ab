//! Measures where the time of a step goes. Off by default; a part then costs one load of a flag.
//!
//! Parts are leaves: none is measured inside another, so that their times add up. What [`Part::Step`] holds beyond the sum is the rest.
//! Times are those of the engine's thread, summed over all engines of the process. Where threads compute the base's products and
//! adapters' side by side, the time of both is divided as the threads' own time was, which tasks clock while measuring is on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The whole step, waiting for the device's turn included.
    Step,
    /// Who runs: the scheduler.
    Plan,
    /// Rows of the step, grouped by adapter; copies of blocks and prefixes.
    Prepare,
    /// Embeddings and virtual tokens.
    Embed,
    /// Norms, rotary positions, activations, residuals.
    Elementwise,
    /// The base's products, the one with the vocabulary included.
    Linear,
    /// Low-rank products, scales and biases of adapters.
    Adapters,
    /// Keys and values written, and attention over them.
    Attention,
    /// Classification heads.
    Heads,
    /// Tokens chosen, decoded and handed out.
    Sample,
}

impl Part {
    /// All parts, in the order of a step.
    pub const ALL: [Self; 10] = [
        Self::Step,
        Self::Plan,
        Self::Prepare,
        Self::Embed,
        Self::Elementwise,
        Self::Linear,
        Self::Adapters,
        Self::Attention,
        Self::Heads,
        Self::Sample,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Plan => "plan",
            Self::Prepare => "prepare",
            Self::Embed => "embed",
            Self::Elementwise => "elementwise",
            Self::Linear => "linear",
            Self::Adapters => "adapters",
            Self::Attention => "attention",
            Self::Heads => "heads",
            Self::Sample => "sample",
        }
    }
}

static ON: AtomicBool = AtomicBool::new(false);
static NANOSECONDS: [AtomicU64; Part::ALL.len()] = [const { AtomicU64::new(0) }; Part::ALL.len()];
static COUNTS: [AtomicU64; Part::ALL.len()] = [const { AtomicU64::new(0) }; Part::ALL.len()];

/// Starts measuring, from zero.
pub fn start() {
    take();
    ON.store(true, Relaxed);
}

/// Stops measuring.
pub fn stop() {
    ON.store(false, Relaxed);
}

/// For each part, its time and how often it ran since the last call; both start again at zero.
pub fn take() -> [(Part, Duration, u64); Part::ALL.len()] {
    Part::ALL.map(|part| {
        let time = Duration::from_nanos(NANOSECONDS[part as usize].swap(0, Relaxed));
        (part, time, COUNTS[part as usize].swap(0, Relaxed))
    })
}

/// Measures `part` until the answer is dropped.
pub fn time(part: Part) -> Timer {
    Timer { part, start: ON.load(Relaxed).then(Instant::now) }
}

/// Measures `one` and `other`, which `f` computes mixed. `f` is told whether to measure and answers the share of `other`.
pub fn time_both(one: Part, other: Part, f: impl FnOnce(bool) -> f64) {
    let start = ON.load(Relaxed).then(Instant::now);
    let share = f(start.is_some());
    if let Some(start) = start {
        let time = start.elapsed();
        let others = time.mul_f64(share);
        note(one, time - others);
        if share > 0.0 {
            note(other, others);
        }
    }
}

fn note(part: Part, time: Duration) {
    NANOSECONDS[part as usize].fetch_add(time.as_nanos() as u64, Relaxed);
    COUNTS[part as usize].fetch_add(1, Relaxed);
}

/// A part under way.
#[must_use = "a part ends when its timer is dropped"]
pub struct Timer {
    part: Part,
    start: Option<Instant>,
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            note(self.part, start.elapsed());
        }
    }
}
