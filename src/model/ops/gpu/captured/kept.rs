//! Which captured steps of one padded number of tokens are kept.

use std::collections::{HashMap, HashSet};

use super::kind::Kind;

/// How many of seldom kinds are kept; the one that was used longest ago makes room. What a graph takes of a GPU's memory is not
/// counted anywhere: it is bounded so.
const MOST_SELDOM: usize = 16;

/// Steps after which the one that was used longest ago may make room: where more kinds than that take turns, capturing them again and
/// again would take longer than it saves.
const OLD: u64 = 8 * MOST_SELDOM as u64;

/// Steps after which what could not be captured is tried again.
const FORGIVEN: u64 = 1 << 12;

/// Captured steps by kind; `G` is what is captured.
pub struct Kept<G> {
    of: HashMap<Kind, Entry<G>>,
    /// Seldom kinds that have come once, and are not kept.
    seen: HashSet<Kind>,
    uses: u64,
}

struct Entry<G> {
    /// The residents' shape that it was captured with; 0 without adapters.
    shape: u64,
    /// `None` if it could not be captured.
    graph: Option<G>,
    used: u64,
}

/// What is there for a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<G> {
    Graph(G),
    /// Nothing, and one shall be captured.
    Wanted,
    /// Nothing, and none shall be: it comes but once so far, which is not worth a graph, nor the time of those who wait while it is
    /// made; or there is no room; or it could not be captured.
    Unwanted,
}

impl<G> Kept<G> {
    pub fn new() -> Self {
        Self { of: HashMap::new(), seen: HashSet::new(), uses: 0 }
    }

    /// What there is for a kind of steps, with residents of that shape.
    pub fn find(&mut self, kind: Kind, shape: u64) -> Found<&G> {
        self.uses += 1;
        let waits = kind.is_seldom() && !self.of.contains_key(&kind) && (self.seen.insert(kind) || !self.has_room());
        let uses = self.uses;
        match self.of.get_mut(&kind).filter(|entry| entry.shape == shape) {
            Some(Entry { graph: Some(graph), used, .. }) => {
                *used = uses;
                Found::Graph(graph)
            }
            Some(failed) if uses - failed.used < FORGIVEN => Found::Unwanted,
            _ if waits => Found::Unwanted,
            _ => Found::Wanted,
        }
    }

    /// Whether one more of a seldom kind can be kept, maybe in place of one that nobody used for long.
    fn has_room(&self) -> bool {
        let oldest = self.seldom().map(|(_, entry)| entry.used).min();
        self.seldom().count() < MOST_SELDOM || oldest.is_some_and(|used| self.uses - used > OLD)
    }

    fn seldom(&self) -> impl Iterator<Item = (&Kind, &Entry<G>)> {
        self.of.iter().filter(|(kind, _)| kind.is_seldom())
    }

    /// Keeps what was captured for a kind of steps, or that it could not be.
    pub fn put(&mut self, kind: Kind, shape: u64, graph: Option<G>) {
        self.seen.remove(&kind);
        self.of.insert(kind, Entry { shape, graph, used: self.uses });
        if self.seldom().count() > MOST_SELDOM
            && let Some((&oldest, _)) = self.seldom().min_by_key(|(_, entry)| entry.used)
        {
            self.of.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What two steps of a kind find, the first of which is the kind's first.
    fn comes_twice(kept: &mut Kept<usize>, kind: Kind) {
        assert_eq!(kept.find(kind, 0), Found::Unwanted);
        assert_eq!(kept.find(kind, 0), Found::Wanted);
    }

    fn kind(asking: Option<usize>) -> Kind {
        Kind { adapted: false, drawn: false, short: true, before: false, asking }
    }

    #[test]
    fn what_comes_often_is_captured_at_once_and_for_each_shape() {
        let (mut kept, often) = (Kept::new(), kind(None));
        assert_eq!(kept.find(often, 1), Found::Wanted);
        kept.put(often, 1, Some("first"));
        assert_eq!(kept.find(often, 1), Found::Graph(&"first"));
        assert_eq!(kept.find(often, 2), Found::Wanted);
        kept.put(often, 2, Some("second"));
        assert_eq!(kept.find(often, 2), Found::Graph(&"second"));
    }

    #[test]
    fn what_could_not_be_captured_is_not_tried_again_soon_with_the_same_residents() {
        let (mut kept, often) = (Kept::<()>::new(), kind(None));
        kept.put(often, 1, None);
        assert_eq!(kept.find(often, 2), Found::Wanted);
        let tries = (0..2 * FORGIVEN).position(|_| kept.find(often, 1) == Found::Wanted);
        assert_eq!(tries, Some(FORGIVEN as usize - 2));
    }

    #[test]
    fn more_seldom_kinds_than_are_kept_do_not_drive_each_other_out() {
        let mut kept = Kept::new();
        let kinds: Vec<Kind> = (0..MOST_SELDOM + 5).map(|asking| kind(Some(asking))).collect();
        let mut captured = 0;
        for round in 0..50 {
            for &kind in &kinds {
                if kept.find(kind, 0) == Found::Wanted {
                    kept.put(kind, 0, Some(round));
                    captured += 1;
                }
            }
        }
        assert_eq!(captured, MOST_SELDOM);
    }

    #[test]
    fn what_comes_seldom_is_captured_the_second_time_and_makes_room() {
        let mut kept = Kept::new();
        let kinds: Vec<Kind> = (0..=MOST_SELDOM).map(|asking| kind(Some(asking))).collect();
        kept.put(kind(None), 0, Some(usize::MAX));
        for (i, &kind) in kinds.iter().enumerate() {
            for _ in 0..=OLD {
                assert!(i == 0 || kept.find(kinds[0], 0) == Found::Graph(&0), "used again and again");
            }
            comes_twice(&mut kept, kind);
            kept.put(kind, 0, Some(i));
        }
        assert_eq!(kept.find(kinds[2], 0), Found::Graph(&2));
        assert_eq!(kept.find(kinds[1], 0), Found::Unwanted, "it made room");
        assert_eq!(kept.find(kind(None), 0), Found::Graph(&usize::MAX), "it is not one of them");
    }
}
