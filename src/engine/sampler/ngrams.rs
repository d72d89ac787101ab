//! Which tokens would repeat an n-gram.

use std::collections::HashMap;

/// Where n-grams ended, by the hash of their first n-1 tokens: chains of positions, as in LZ77.
///
/// Adding a token and looking up a suffix cost the length of one n-gram, not of the text. A clone copies two flat tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct NgramIndex {
    /// The latest end for each hash.
    latest: HashMap<u64, u32>,
    /// For each position from `start`: the end before it with the same hash.
    earlier: Vec<Option<u32>>,
    start: usize,
}

impl NgramIndex {
    /// An index of n-grams that end at position `start` or later.
    pub(crate) fn starting_at(start: usize) -> Self {
        Self { start, ..Self::default() }
    }

    /// Notes the n-gram that ends at the next position by the [`hash`] of its first n-1 tokens; `None`: no n-gram ends here.
    pub(crate) fn push(&mut self, hash: Option<u64>) {
        let end = (self.start + self.earlier.len()) as u32;
        self.earlier.push(hash.and_then(|hash| self.latest.insert(hash, end)));
    }

    /// Ends of n-grams whose first n-1 tokens have this hash; the caller compares tokens.
    pub(crate) fn ends(&self, hash: u64) -> impl Iterator<Item = usize> {
        let mut next = self.latest.get(&hash).copied();
        std::iter::from_fn(move || {
            let end = next? as usize;
            next = self.earlier.get(end - self.start).copied().flatten();
            Some(end)
        })
    }
}

/// FNV-1a over whole tokens.
pub(crate) fn hash(tokens: impl Iterator<Item = u32>) -> u64 {
    tokens.fold(0xcbf2_9ce4_8422_2325, |hash, token| (hash ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3))
}
