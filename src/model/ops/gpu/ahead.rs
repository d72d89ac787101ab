//! Which weights a product brings nearer for the product after it.

use parking_lot::Mutex;
use repertoire_kernels::cuda::Slice;

/// The most bytes that are brought nearer: about what memory delivers while launches without weights run. Measured: with more
/// than 8 MiB they get into each other's way.
const MOST_BYTES: usize = 6 << 20;

/// The order of a step's products, noted in one run of it and used in the next.
#[derive(Default)]
pub struct Ahead(Mutex<State>);

#[derive(Default)]
enum State {
    /// Steps that run once.
    #[default]
    Unknown,
    Noting(Vec<Slice>),
    /// What is noted, and how many products there have been.
    Known(Vec<Slice>, usize),
}

impl Ahead {
    /// The order is noted from here on.
    pub fn note(&self) {
        *self.0.lock() = State::Noting(Vec::new());
    }

    /// What was noted is repeated from here on, and again after its end.
    pub fn repeat(&self) {
        let mut state = self.0.lock();
        *state = match std::mem::take(&mut *state) {
            State::Noting(weights) => State::Known(weights, 0),
            _ => State::Unknown,
        };
    }

    /// Nothing is known of what comes.
    pub fn forget(&self) {
        *self.0.lock() = State::Unknown;
    }

    /// What is read after a product of `weight`, if that is known.
    pub fn after(&self, weight: &Slice) -> Option<Slice> {
        match &mut *self.0.lock() {
            State::Unknown => None,
            State::Noting(weights) => {
                weights.push(weight.clone());
                None
            }
            State::Known(weights, at) => {
                *at += 1;
                let next = weights.get(*at % weights.len().max(1))?;
                Some(next.part(0..next.len().min(MOST_BYTES / next.dtype().bytes())))
            }
        }
    }
}
