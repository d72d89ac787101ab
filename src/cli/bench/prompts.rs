//! Random prompts of an exact length, as the server counts tokens.
//!
//! Texts are words with blanks between them. Tokenizers look at each alone, so a text costs the sum of its words and
//! a constant (special tokens, a prompt format). What a word costs is asked of the server itself.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::lengths::Lengths;

/// One token each in the vocabularies of real models.
const WORDS: [&str; 32] = [
    "the", "of", "and", "to", "in", "is", "it", "that", "for", "was", "on", "are", "as", "with", "his", "they", "at",
    "be", "this", "from", "have", "or", "by", "one", "had", "not", "but", "what", "all", "were", "when", "we",
];
/// Every text starts with it: a first word, without a blank before it, may cost something else.
const FIRST: &str = "a";
/// Fills a remainder that no word fits: next to a word it is one token nearly everywhere.
const FILLER: &str = ".";
/// How often a text of the wrong length leads to a better guess.
const TRIES: usize = 4;

/// Makes prompts for one server.
#[derive(Debug)]
pub struct Prompts {
    words: Vec<(String, usize)>,
    /// What the first word and everything around the text costs.
    constant: usize,
    /// The same where it is known by adapter: each may have a prompt format of its own.
    constants: HashMap<Option<String>, usize>,
    lengths: Lengths,
    shared_tokens: usize,
    shared_seed: u64,
}

impl Prompts {
    /// Learns from `count`, which knows what a text comes to, how to make prompts of such `lengths`, the first `shared` the same in all.
    pub fn calibrate(
        lengths: Lengths,
        shared: usize,
        seed: u64,
        mut count: impl FnMut(&str) -> Result<usize>,
    ) -> Result<Self> {
        let (words, constant) = costs(&mut count)?;
        let constants = HashMap::new();
        let mut prompts = Self { words, constant, constants, lengths, shared_tokens: shared, shared_seed: seed };
        prompts.constant = prompts.fit(count)?;
        Ok(prompts)
    }

    /// Learns what an adapter's prompt format adds.
    pub fn learn(&mut self, adapter: Option<&str>, count: impl FnMut(&str) -> Result<usize>) -> Result<()> {
        let constant = self.fit(count)?;
        self.constants.insert(adapter.map(str::to_owned), constant);
        Ok(())
    }

    /// The constant with which texts have the right length.
    fn fit(&self, mut count: impl FnMut(&str) -> Result<usize>) -> Result<usize> {
        let (tokens, mut constant, mut counted) = (self.lengths.most, self.constant, 0);
        let mut rng = ChaCha8Rng::seed_from_u64(self.shared_seed);
        for _ in 0..TRIES {
            let text = self
                .with_constant(tokens, constant, &mut rng)
                .with_context(|| format!("--prompt-tokens must be at least {constant}, given {}", self.lengths))?;
            counted = count(&text)?;
            if counted == tokens {
                if self.lengths.least < constant {
                    bail!("--prompt-tokens must be at least {constant}, given {}", self.lengths);
                }
                return Ok(constant);
            }
            constant = (constant + counted).saturating_sub(tokens);
        }
        bail!("no text was found that the server counts as {tokens} tokens, the nearest has {counted}")
    }

    /// For a server that does not say what texts come to: words are taken for one token each.
    pub fn uncounted(lengths: Lengths, shared: usize, seed: u64) -> Self {
        let words = WORDS.map(|word| (word.to_owned(), 1)).into();
        Self { words, constant: 1, constants: HashMap::new(), lengths, shared_tokens: shared, shared_seed: seed }
    }

    /// A prompt for an adapter or the base; `None` if even the first word is too long.
    pub fn text(&self, adapter: Option<&str>, rng: &mut ChaCha8Rng) -> Option<String> {
        let constant = self.constants.get(&adapter.map(str::to_owned)).unwrap_or(&self.constant);
        self.with_constant(self.lengths.draw(rng), *constant, rng)
    }

    fn with_constant(&self, tokens: usize, constant: usize, rng: &mut ChaCha8Rng) -> Option<String> {
        let mut left = tokens.checked_sub(constant)?;
        let mut text = FIRST.to_owned();
        let mut shared = ChaCha8Rng::seed_from_u64(self.shared_seed);
        let unshared = tokens - self.shared_tokens;
        while left > unshared && self.add(&mut text, &mut left, &mut shared) {}
        while self.add(&mut text, &mut left, rng) {}
        text.push_str(&FILLER.repeat(left));
        Some(text)
    }

    /// Adds a random word among those that fit.
    fn add(&self, text: &mut String, left: &mut usize, rng: &mut impl Rng) -> bool {
        // As a rule every word fits.
        let any = self.words.choose(rng).filter(|(_, cost)| cost <= left);
        let fitting = || self.words.iter().filter(|(_, cost)| cost <= left).collect::<Vec<_>>();
        let Some((word, cost)) = any.or_else(|| fitting().choose(rng).copied()) else { return false };
        text.push(' ');
        text.push_str(word);
        *left -= cost;
        true
    }
}

/// What each word costs, and what stands around them.
fn costs(count: &mut impl FnMut(&str) -> Result<usize>) -> Result<(Vec<(String, usize)>, usize)> {
    let all = WORDS.join(" ");
    let once = count(&format!("{FIRST} {all}"))?;
    let twice = count(&format!("{FIRST} {all} {all}"))?;
    if twice.checked_sub(once) == Some(WORDS.len()) {
        // None is free, so each costs one.
        return Ok((WORDS.map(|word| (word.to_owned(), 1)).into(), once - WORDS.len()));
    }
    // A small vocabulary: letters are the shortest there is.
    let constant = count(FIRST)?;
    let mut letters = Vec::new();
    for letter in 'a'..='z' {
        let cost = count(&format!("{FIRST} {letter}"))?.saturating_sub(constant);
        letters.push((letter.to_string(), cost));
    }
    letters.retain(|(_, cost)| *cost > 0);
    if letters.is_empty() {
        bail!("the server counts {constant} tokens for every text: its usage cannot be right");
    }
    Ok((letters, constant))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn exactly(tokens: usize) -> Lengths {
        Lengths { least: tokens, most: tokens }
    }

    /// Checks 50 prompts of every length, with and without a shared start.
    fn check(count: impl Fn(&str) -> usize + Copy, lengths: impl IntoIterator<Item = usize>) {
        for tokens in lengths {
            for shared in [0, tokens / 2] {
                let prompts = Prompts::calibrate(exactly(tokens), shared, 7, |text| Ok(count(text))).unwrap();
                let mut rng = ChaCha8Rng::seed_from_u64(9);
                let texts: HashSet<String> = (0..50).map(|_| prompts.text(None, &mut rng).unwrap()).collect();
                assert!(texts.iter().all(|text| count(text) == tokens), "{tokens}: {texts:?}");
                if tokens - shared >= 16 {
                    assert_eq!(texts.len(), 50);
                }
            }
        }
    }

    #[test]
    fn prompts_have_the_length_that_words_and_special_tokens_come_to() {
        check(|text| text.split(' ').count() + 2, [3, 4, 16, 128, 1000]);
    }

    #[test]
    fn prompts_of_bytes_have_any_length() {
        check(str::len, [1, 2, 3, 16, 17, 128]);
    }

    #[test]
    fn prompts_of_a_small_vocabulary_have_any_length() {
        // A blank and a vowel are one token, all other letters are their own.
        let count = |text: &str| {
            let vowel = |c: char| "aeiou".contains(c);
            text.len() - text.match_indices(' ').filter(|(at, _)| text[at + 1..].starts_with(vowel)).count()
        };
        check(count, [2, 5, 16, 33, 128]);
    }

    #[test]
    fn the_shared_start_is_the_same_in_all_prompts_and_the_rest_is_not() {
        let count = |text: &str| text.split(' ').count() + 1;
        let prompts = Prompts::calibrate(exactly(100), 40, 1, |text| Ok(count(text))).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let texts: Vec<String> = (0..3).map(|_| prompts.text(None, &mut rng).unwrap()).collect();
        let words: Vec<Vec<&str>> = texts.iter().map(|text| text.split(' ').collect()).collect();
        assert_eq!(words[0][..39], words[1][..39]);
        assert_ne!(words[0][39..50], words[1][39..50]);
    }

    #[test]
    fn an_adapter_with_a_prompt_format_gets_shorter_texts() {
        let count = |text: &str| text.split(' ').count() + 1;
        let mut prompts = Prompts::calibrate(exactly(50), 0, 1, |text| Ok(count(text))).unwrap();
        prompts.learn(Some("formatted"), |text| Ok(count(text) + 9)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        assert_eq!(count(&prompts.text(Some("formatted"), &mut rng).unwrap()), 41);
        assert_eq!(count(&prompts.text(Some("plain"), &mut rng).unwrap()), 50);
    }

    #[test]
    fn prompts_are_of_all_lengths_between_two() {
        let count = |text: &str| text.split(' ').count() + 2;
        let lengths = Lengths { least: 5, most: 9 };
        let prompts = Prompts::calibrate(lengths, 0, 1, |text| Ok(count(text))).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let seen: HashSet<usize> = (0..100).map(|_| count(&prompts.text(None, &mut rng).unwrap())).collect();
        assert_eq!(seen, (5..=9).collect());
        let short = Prompts::calibrate(Lengths { least: 2, most: 9 }, 0, 0, |text| Ok(count(text))).unwrap_err();
        assert!(format!("{short:#}").contains("at least 3, given 2-9"), "{short:#}");
    }

    #[test]
    fn what_cannot_be_made_is_said() {
        let short = Prompts::calibrate(exactly(2), 0, 0, |text| Ok(text.split(' ').count() + 2)).unwrap_err();
        assert!(format!("{short:#}").contains("at least 3, given 2"), "{short:#}");
        assert!(Prompts::calibrate(exactly(20), 0, 0, |_| Ok(5)).is_err());
    }
}
