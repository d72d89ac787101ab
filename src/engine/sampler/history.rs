//! What a sequence has said so far, as far as penalties ask.

use std::collections::HashMap;
use std::sync::Arc;

use super::ngrams::{NgramIndex, hash};
use crate::engine::Parameters;

/// Prompt and answer of one sequence, kept so that a step costs no rescan.
///
/// Keeps only what the parameters ask for. Clones (beams, several sequences of a request) share the prompt's part.
#[derive(Clone, Debug)]
pub struct SequenceHistory {
    prompt: Arc<Prompt>,
    answer: Vec<u32>,
    /// How often each token stands in the answer.
    counts: HashMap<u32, u32>,
    ngrams: NgramIndex,
    counting: bool,
    ngram_size: usize,
}

#[derive(Debug)]
struct Prompt {
    tokens: Vec<u32>,
    /// Sorted, each once.
    distinct: Vec<u32>,
    ngrams: NgramIndex,
}

impl SequenceHistory {
    /// The history of a sequence that has said nothing yet. Virtual tokens of the prompt count as nothing: they have no logit.
    pub fn new(parameters: &Parameters, prompt: &[u32]) -> Self {
        let ngram_size = parameters.no_repeat_ngram_size;
        let repetition = parameters.repetition_penalty != 1.0;
        let mut distinct = if repetition { prompt.to_vec() } else { Vec::new() };
        distinct.sort_unstable();
        distinct.dedup();
        let tokens = if ngram_size > 0 { prompt.to_vec() } else { Vec::new() };
        let mut ngrams = NgramIndex::starting_at(0);
        for end in 0..tokens.len() {
            ngrams.push(first_of_ngram(ngram_size, end, |at| tokens[at]).map(hash));
        }
        Self {
            answer: Vec::new(),
            counts: HashMap::new(),
            ngrams: NgramIndex::starting_at(tokens.len()),
            counting: repetition || parameters.frequency_penalty != 0.0 || parameters.presence_penalty != 0.0,
            ngram_size,
            prompt: Arc::new(Prompt { tokens, distinct, ngrams }),
        }
    }

    /// Adds a token to the answer.
    pub fn push(&mut self, token: u32) {
        if self.counting {
            *self.counts.entry(token).or_default() += 1;
        }
        if self.ngram_size > 0 {
            self.answer.push(token);
            let end = self.len() - 1;
            let hash = first_of_ngram(self.ngram_size, end, |at| self.token(at)).map(hash);
            self.ngrams.push(hash);
        }
    }

    /// Whether it can change any score.
    pub(crate) fn changes_scores(&self) -> bool {
        self.counting || self.ngram_size > 0
    }

    /// Each token of the answer and how often it stands there, in no order.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (u32, u32)> {
        self.counts.iter().map(|(&token, &count)| (token, count))
    }

    /// Each token of prompt and answer once, in no order.
    pub(crate) fn distinct(&self) -> impl Iterator<Item = u32> {
        let prompt = &self.prompt.distinct;
        let new = self.counts.keys().copied().filter(|token| prompt.binary_search(token).is_err());
        prompt.iter().copied().chain(new)
    }

    /// Tokens that would repeat an n-gram of prompt and answer if they came next; some more than once.
    pub(crate) fn banned(&self) -> impl Iterator<Item = u32> {
        let size = self.ngram_size;
        let suffix = if size > 0 { first_of_ngram(size, self.len(), |at| self.token(at)) } else { None };
        suffix.into_iter().flat_map(move |suffix| {
            let hash = hash(suffix.clone());
            let ends = self.prompt.ngrams.ends(hash).chain(self.ngrams.ends(hash));
            ends.filter(move |&end| (end + 1 - size..end).map(|at| self.token(at)).eq(suffix.clone()))
                .map(|end| self.token(end))
        })
    }

    fn len(&self) -> usize {
        self.prompt.tokens.len() + self.answer.len()
    }

    fn token(&self, at: usize) -> u32 {
        let prompt = &self.prompt.tokens;
        if at < prompt.len() { prompt[at] } else { self.answer[at - prompt.len()] }
    }
}

/// The first `size - 1` tokens of the n-gram that ends at `end`; `None` if it would start before the text.
fn first_of_ngram(
    size: usize,
    end: usize,
    token: impl Fn(usize) -> u32 + Clone,
) -> Option<impl Iterator<Item = u32> + Clone> {
    let start = (end + 1).checked_sub(size)?;
    Some((start..end).map(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// transformers' `_get_ngrams` and `_get_generated_ngrams`.
    fn naive(text: &[u32], size: usize) -> BTreeSet<u32> {
        if text.len() < size {
            return BTreeSet::new();
        }
        let suffix = &text[text.len() + 1 - size..];
        text.windows(size).filter(|window| &window[..size - 1] == suffix).map(|window| window[size - 1]).collect()
    }

    proptest! {
        #[test]
        fn bans_equal_a_rescan_after_every_token(
            prompt in prop::collection::vec(0u32..5, 0..40),
            answer in prop::collection::vec(0u32..5, 0..40),
            size in 1usize..5,
        ) {
            let parameters = Parameters { no_repeat_ngram_size: size, ..Parameters::default() };
            let mut history = SequenceHistory::new(&parameters, &prompt);
            let mut text = prompt;
            prop_assert_eq!(history.banned().collect::<BTreeSet<_>>(), naive(&text, size));
            for token in answer {
                history.push(token);
                text.push(token);
                prop_assert_eq!(history.banned().collect::<BTreeSet<_>>(), naive(&text, size));
            }
        }
    }

    #[test]
    fn a_clone_goes_its_own_way() {
        let parameters = Parameters { no_repeat_ngram_size: 2, repetition_penalty: 2.0, ..Parameters::default() };
        let mut one = SequenceHistory::new(&parameters, &[1, 2, 1]);
        let mut other = one.clone();
        one.push(3);
        other.push(2);
        assert_eq!(one.distinct().collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
        assert_eq!(other.distinct().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(one.banned().count(), 0);
        assert_eq!(other.banned().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_sequence_without_penalties_keeps_nothing() {
        let mut history = SequenceHistory::new(&Parameters::default(), &[1, 2, 3]);
        history.push(4);
        assert!(!history.changes_scores());
        assert_eq!(history.distinct().count() + history.counts().count() + history.len(), 0);
    }
}
