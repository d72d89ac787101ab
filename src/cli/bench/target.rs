//! What is measured.

use std::time::Instant;

use anyhow::Result;
use rand_chacha::ChaCha8Rng;

use super::load::Load;

/// Something that answers requests: a server over HTTP, or an engine in this process.
pub trait Target: Sync {
    /// A request whose prompt is made.
    type Question: Send;

    /// Whether asking blocks the thread, so that each client needs one of its own.
    const BLOCKS: bool;

    /// Learns what is asked from now on.
    fn turn_to(&mut self, load: &Load) -> Result<()>;

    /// Makes a request, with a prompt out of `rng`. Not timed. No adapter: the base.
    fn prepare(&self, adapter: Option<&str>, rng: &mut ChaCha8Rng) -> Result<Self::Question>;

    /// Asks, and listens to the end.
    async fn ask(&self, question: Self::Question, heard: &mut Heard) -> Result<()>;
}

/// What a client heard of an answer.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// When each token came; an answer without tokens has one entry, its end.
    pub at: Vec<Instant>,
    /// As the server counted them, if it says so.
    pub prompt_tokens: Option<usize>,
    /// Of these, those it had computed before.
    pub cached_tokens: Option<usize>,
    /// As the server counted them, else as they came.
    pub output_tokens: usize,
}

impl Heard {
    /// A token has come.
    pub fn token(&mut self) {
        self.at.push(Instant::now());
        self.output_tokens += 1;
    }
}
