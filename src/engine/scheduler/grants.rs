//! Which prompts a step computes, and how much of each.

use std::cmp::Reverse;

use super::UnitId;

/// A prompt that is not complete.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    pub id: UnitId,
    pub priority: i32,
    /// What its adapter was served.
    pub served: u64,
    /// Tokens to compute.
    pub tokens: usize,
    /// Whether they may be computed in pieces.
    pub divisible: bool,
}

/// Shares `budget` tokens among prompts: by priority, then the adapter that was served least, then age.
///
/// The first in line gets half for certain, so that it cannot starve; of the rest, an adapter's short prompts get theirs before
/// its long ones. What cannot be cut (texts of an encoder, which have steps to themselves) is served whole: the first
/// whatever its length, then those next to it in length, so that short texts do not wait for long ones.
pub fn grants(mut prompts: Vec<Backlog>, budget: usize) -> Vec<(UnitId, usize)> {
    prompts.sort_by_key(|prompt| (Reverse(prompt.priority), prompt.served, prompt.id));
    let Some(&first) = prompts.first() else { return vec![] };
    let mut left = budget;
    let mut granted = vec![(first.id, 0)];
    if first.divisible {
        granted[0].1 = if prompts.len() == 1 { left } else { left.div_ceil(2) }.min(first.tokens);
    } else {
        granted[0].1 = first.tokens;
    }
    left = left.saturating_sub(granted[0].1);

    prompts[0].tokens -= granted[0].1;
    prompts.sort_by_key(|prompt| {
        let (served, length) = match prompt.divisible {
            true => (prompt.served, prompt.tokens),
            false => (0, prompt.tokens.abs_diff(first.tokens)),
        };
        (Reverse(prompt.priority), served, length, prompt.id)
    });
    for prompt in prompts {
        let tokens = match prompt.divisible {
            true => prompt.tokens.min(left),
            false if prompt.tokens <= left => prompt.tokens,
            false => 0,
        };
        left -= tokens;
        match prompt.id == first.id {
            true => granted[0].1 += tokens,
            false => granted.push((prompt.id, tokens)),
        }
    }
    granted.retain(|&(_, tokens)| tokens > 0);
    granted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(id: u64, served: u64, tokens: usize) -> Backlog {
        Backlog { id: UnitId(id), priority: 0, served, tokens, divisible: true }
    }

    fn given(prompts: Vec<Backlog>, budget: usize) -> Vec<(u64, usize)> {
        grants(prompts, budget).into_iter().map(|(id, tokens)| (id.0, tokens)).collect()
    }

    #[test]
    fn a_long_prompt_leaves_half_to_short_ones_behind_it() {
        assert_eq!(given(vec![prompt(1, 0, 1500), prompt(2, 0, 20), prompt(3, 0, 8)], 40), [(1, 20), (3, 8), (2, 12)]);
        assert_eq!(given(vec![prompt(1, 0, 1500)], 40), [(1, 40)]);
        assert_eq!(given(vec![prompt(1, 0, 1500), prompt(2, 0, 4)], 40), [(1, 36), (2, 4)]);
    }

    #[test]
    fn equal_prompts_are_computed_one_after_the_other() {
        assert_eq!(given(vec![prompt(1, 0, 100), prompt(2, 0, 100)], 60), [(1, 60)]);
    }

    #[test]
    fn the_adapter_that_was_served_least_goes_first_and_priority_goes_before_that() {
        assert_eq!(given(vec![prompt(1, 900, 10), prompt(2, 0, 100)], 60), [(2, 60)]);
        let urgent = Backlog { priority: 1, ..prompt(3, 900, 50) };
        assert_eq!(given(vec![urgent, prompt(2, 0, 100)], 60), [(3, 50), (2, 10)]);
    }

    #[test]
    fn whole_prompts_join_the_first_by_length() {
        let whole = |id, tokens| Backlog { divisible: false, ..prompt(id, 0, tokens) };
        let texts = vec![whole(1, 10), whole(2, 400), whole(3, 12), whole(4, 9)];
        assert_eq!(given(texts, 40), [(1, 10), (4, 9), (3, 12)]);
        assert_eq!(given(vec![whole(1, 100), whole(2, 5)], 40), [(1, 100)]);
    }
}
