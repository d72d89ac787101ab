//! Random numbers of one sequence.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The random numbers of one sequence: a ChaCha8 stream of its own for each (seed, sequence index), so that they depend on nothing else in the batch.
#[derive(Clone, Debug)]
pub struct SequenceRng(ChaCha8Rng);

impl SequenceRng {
    /// The stream of sequence `sequence` of a request with this seed.
    pub fn new(seed: u64, sequence: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(sequence as u64);
        Self(rng)
    }

    /// A number in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0.random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_a_seed_differ_and_repeat() {
        let numbers = |seed, sequence| {
            let mut rng = SequenceRng::new(seed, sequence);
            [rng.uniform(), rng.uniform()]
        };
        assert_eq!(numbers(7, 0), numbers(7, 0));
        assert_ne!(numbers(7, 0), numbers(7, 1));
        assert_ne!(numbers(7, 0), numbers(8, 0));
    }

    #[test]
    fn a_seed_gives_the_same_numbers_in_every_release() {
        // Answers must not change under a dependency's update.
        let mut rng = SequenceRng::new(42, 3);
        assert_eq!([rng.uniform(), rng.uniform()], [0.361_691_416_833_190_06, 0.592_416_697_583_587_7]);
    }
}
