//! How much each adapter was served, so that one with many requests cannot hold up another with few.
//!
//! Virtual token counters, arXiv 2401.00588: tokens count for the adapter that asked for them, the one with the least goes
//! first, and one that comes anew starts level with the least served of those that are there.

use std::collections::HashMap;

use crate::adapter::Digest;

/// An adapter, or the plain base.
pub type Flow = Option<Digest>;

/// What a computed token of a prompt counts; a token of an answer counts twice as much.
pub const PROMPT_TOKEN: u64 = 1;
pub const ANSWER_TOKEN: u64 = 2;

/// Tokens served by adapter, for those with requests inside.
#[derive(Debug, Default)]
pub struct Shares {
    flows: HashMap<Flow, Share>,
}

#[derive(Debug, Default)]
struct Share {
    served: u64,
    /// Requests that wait or run.
    inside: usize,
}

impl Shares {
    /// A request comes in.
    pub fn arrives(&mut self, flow: Flow) {
        let level = self.level();
        let share = self.flows.entry(flow).or_default();
        if share.inside == 0 {
            share.served = share.served.max(level);
        }
        share.inside += 1;
    }

    /// A request is over. Who leaves above the level is remembered until the others have caught up.
    pub fn leaves(&mut self, flow: Flow) {
        if let Some(share) = self.flows.get_mut(&flow) {
            share.inside -= 1;
        }
        let nobody = self.flows.values().all(|share| share.inside == 0);
        let level = self.level();
        self.flows.retain(|_, share| share.inside > 0 || (!nobody && share.served > level));
    }

    /// Counts tokens that were computed for an adapter.
    pub fn charge(&mut self, flow: Flow, tokens: u64) {
        if let Some(share) = self.flows.get_mut(&flow) {
            share.served += tokens;
        }
    }

    /// What an adapter was served; less goes first.
    pub fn served(&self, flow: Flow) -> u64 {
        self.flows.get(&flow).map_or(0, |share| share.served)
    }

    /// The least that anybody inside was served.
    fn level(&self) -> u64 {
        self.flows.values().filter(|share| share.inside > 0).map(|share| share.served).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(name: &str) -> Flow {
        Some(Digest::of(name.as_bytes()))
    }

    #[test]
    fn who_comes_late_starts_level_and_owes_nothing() {
        let mut shares = Shares::default();
        shares.arrives(flow("busy"));
        shares.charge(flow("busy"), 1000);
        shares.arrives(flow("new"));
        assert_eq!(shares.served(flow("new")), 1000);
    }

    #[test]
    fn leaving_and_coming_back_pays_no_debt() {
        let mut shares = Shares::default();
        shares.arrives(flow("quiet"));
        shares.arrives(flow("greedy"));
        shares.charge(flow("greedy"), 500);
        shares.leaves(flow("greedy"));
        shares.arrives(flow("greedy"));
        assert_eq!((shares.served(flow("greedy")), shares.served(flow("quiet"))), (500, 0));
        shares.leaves(flow("greedy"));
        shares.leaves(flow("quiet"));
        assert!(shares.flows.is_empty(), "nobody is inside, nothing is kept");
    }
}
