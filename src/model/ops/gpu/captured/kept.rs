//! Which captured steps of one padded number of tokens are kept.

use std::collections::{HashMap, HashSet};

use super::kind::Kind;

/// How many of seldom kinds are kept; the one that was used longest ago makes room. What a graph takes of a GPU's memory is not
/// counted anywhere: it is bounded so.
const MOST_SELDOM: usize = 16;

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
    /// made; or it could not be captured.
    Unwanted,
}

impl<G> Kept<G> {
    pub fn new() -> Self {
        Self { of: HashMap::new(), seen: HashSet::new(), uses: 0 }
    }

    /// What there is for a kind of steps, with residents of that shape.
    pub fn find(&mut self, kind: Kind, shape: u64) -> Found<&G> {
        self.uses += 1;
        let known = self.of.contains_key(&kind);
        if let Some(entry) = self.of.get_mut(&kind).filter(|entry| entry.shape == shape) {
            entry.used = self.uses;
            return entry.graph.as_ref().map_or(Found::Unwanted, Found::Graph);
        }
        if kind.is_seldom() && !known && self.seen.insert(kind) {
            return Found::Unwanted;
        }
        Found::Wanted
    }

    /// Keeps what was captured for a kind of steps, or that it could not be.
    pub fn put(&mut self, kind: Kind, shape: u64, graph: Option<G>) {
        self.seen.remove(&kind);
        self.of.insert(kind, Entry { shape, graph, used: self.uses });
        let seldom = || self.of.iter().filter(|(kind, _)| kind.is_seldom());
        if seldom().count() > MOST_SELDOM
            && let Some((&oldest, _)) = seldom().min_by_key(|(_, entry)| entry.used)
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
    fn what_could_not_be_captured_is_not_tried_again_with_the_same_residents() {
        let (mut kept, often) = (Kept::<()>::new(), kind(None));
        kept.put(often, 1, None);
        assert_eq!(kept.find(often, 1), Found::Unwanted);
        assert_eq!(kept.find(often, 2), Found::Wanted);
    }

    #[test]
    fn what_comes_seldom_is_captured_the_second_time_and_makes_room() {
        let mut kept = Kept::new();
        let kinds: Vec<Kind> = (0..=MOST_SELDOM).map(|asking| kind(Some(asking))).collect();
        kept.put(kind(None), 0, Some(usize::MAX));
        for (i, &kind) in kinds.iter().enumerate() {
            comes_twice(&mut kept, kind);
            kept.put(kind, 0, Some(i));
            assert_eq!(kept.find(kinds[0], 0), Found::Graph(&0), "used again and again");
        }
        assert_eq!(kept.find(kinds[2], 0), Found::Graph(&2));
        comes_twice(&mut kept, kinds[1]);
        assert_eq!(kept.find(kind(None), 0), Found::Graph(&usize::MAX), "it is not one of them");
    }
}
