//! How much each adapter was served, so that one with many requests cannot hold up another with few.
//!
//! Virtual token counters, arXiv 2401.00588: tokens count for the adapter that asked for them, and of those that wait the one
//! with the least goes first. Who had nothing waiting starts level with those who are served now: nobody saves credit up.

use std::collections::HashMap;

use crate::adapter::Digest;

/// An adapter version, or the plain base.
pub type Flow = Option<Digest>;

/// What a computed token of a prompt counts, and one of an answer.
pub const PROMPT_TOKEN: u64 = 1;
pub const ANSWER_TOKEN: u64 = 2;

/// Tokens served by adapter, for those with requests inside.
#[derive(Debug, Default)]
pub struct Shares {
    flows: HashMap<Flow, Share>,
    /// What the one let in last had been served: it was the least among all that waited.
    level: u64,
}

#[derive(Debug, Default)]
struct Share {
    served: u64,
    waiting: usize,
    running: usize,
}

impl Shares {
    /// A request comes in and waits.
    pub fn arrives(&mut self, flow: Flow) {
        let share = self.flows.entry(flow).or_default();
        if share.waiting == 0 {
            share.served = share.served.max(self.level);
        }
        share.waiting += 1;
    }

    /// A waiting request is let in.
    pub fn starts(&mut self, flow: Flow) {
        if let Some(share) = self.flows.get_mut(&flow) {
            self.level = self.level.max(share.served);
            share.waiting -= 1;
            share.running += 1;
        }
    }

    /// A running request waits again.
    pub fn returns(&mut self, flow: Flow) {
        if let Some(share) = self.flows.get_mut(&flow) {
            share.running -= 1;
            share.waiting += 1;
        }
    }

    /// A request is over. Who was served beyond the level is remembered until the others have caught up, or all have left.
    pub fn leaves(&mut self, flow: Flow, waited: bool) {
        if let Some(share) = self.flows.get_mut(&flow) {
            *(if waited { &mut share.waiting } else { &mut share.running }) -= 1;
        }
        let inside = |share: &Share| share.waiting + share.running > 0;
        match self.flows.values().any(inside) {
            true => self.flows.retain(|_, share| inside(share) || share.served > self.level),
            false => *self = Self::default(),
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(name: &str) -> Flow {
        Some(Digest::of(name.as_bytes()))
    }

    /// A request of `name` that is let in and computes `tokens`.
    fn serve(shares: &mut Shares, name: &str, tokens: u64) {
        shares.arrives(flow(name));
        shares.starts(flow(name));
        shares.charge(flow(name), tokens);
    }

    #[test]
    fn who_comes_late_starts_level_and_owes_nothing() {
        let mut shares = Shares::default();
        serve(&mut shares, "busy", 1000);
        serve(&mut shares, "busy", 1000);
        shares.arrives(flow("new"));
        assert_eq!((shares.served(flow("new")), shares.served(flow("busy"))), (1000, 2000));
    }

    #[test]
    fn a_little_traffic_saves_no_credit_up_for_a_lot() {
        let mut shares = Shares::default();
        serve(&mut shares, "light", 10);
        for _ in 0..50 {
            serve(&mut shares, "heavy", 1000);
        }
        // One of its requests always runs; more come now.
        shares.arrives(flow("light"));
        assert_eq!(shares.served(flow("light")), 49_000);
    }

    #[test]
    fn a_request_that_is_never_let_in_holds_the_level_of_nobody() {
        let mut shares = Shares::default();
        shares.arrives(flow("patient"));
        serve(&mut shares, "busy", 1000);
        serve(&mut shares, "busy", 1000);
        shares.arrives(flow("new"));
        assert_eq!(shares.served(flow("new")), 1000);
    }

    #[test]
    fn leaving_and_coming_back_pays_no_debt() {
        let mut shares = Shares::default();
        serve(&mut shares, "quiet", 1);
        serve(&mut shares, "greedy", 500);
        shares.leaves(flow("greedy"), false);
        shares.arrives(flow("greedy"));
        assert_eq!(shares.served(flow("greedy")), 500);
        shares.leaves(flow("greedy"), true);
        shares.leaves(flow("quiet"), false);
        assert!(shares.flows.is_empty(), "nobody is inside, nothing is kept");
    }
}
