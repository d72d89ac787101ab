//! Which adapters are asked for, and how often each.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand_chacha::ChaCha8Rng;

/// More are a slip of the pen in a range.
const MOST: usize = 100_000;

/// The adapters of a load; `None` is the base.
#[derive(Debug)]
pub struct Roster {
    names: Vec<Option<String>>,
    /// Absent: one after the other.
    zipf: Option<WeightedIndex<f64>>,
}

impl Roster {
    /// Names, ranges of numbered names, and "none". With `zipf`, the k-th is drawn as often as 1/k^zipf says.
    pub fn parse(words: &[String], zipf: Option<f64>) -> Result<Self> {
        let mut names = Vec::new();
        for word in words.iter().map(|word| word.trim()) {
            match (word, range(word)) {
                ("", _) => bail!("--adapters has an empty name; \"none\" is the base"),
                ("none", _) => names.push(None),
                (_, Some((stem, width, numbers))) => {
                    let more = numbers.end().saturating_sub(*numbers.start());
                    if numbers.is_empty() || more >= MOST {
                        bail!("a range of adapters must go up, over at most {MOST} of them, given {word}");
                    }
                    names.extend(numbers.map(|number| Some(format!("{stem}{number:0width$}"))));
                }
                (name, None) => names.push(Some(name.to_owned())),
            }
        }
        let weights = |exponent: f64| WeightedIndex::new((1..=names.len()).map(|rank| (rank as f64).powf(-exponent)));
        let zipf = zipf.map(weights).transpose().context("--zipf leaves no weights")?;
        Ok(Self { names, zipf })
    }

    /// How many different adapters there are, the base not counted.
    pub fn adapters(&self) -> usize {
        self.different().flatten().count()
    }

    /// Each adapter once, and the base.
    pub fn different(&self) -> impl Iterator<Item = Option<&str>> {
        let mut seen = HashSet::new();
        self.names.iter().map(Option::as_deref).filter(move |name| seen.insert(*name))
    }

    /// The first.
    pub fn first(&self) -> Option<&str> {
        self.names.first().and_then(Option::as_deref)
    }

    /// The adapter of the request with this number.
    pub fn pick(&self, number: usize, rng: &mut ChaCha8Rng) -> Option<&str> {
        let index = match &self.zipf {
            Some(weights) => weights.sample(rng),
            None => number % self.names.len(),
        };
        self.names[index].as_deref()
    }
}

/// `joke-000..099`: what stands before the digits, how many digits there are, and the numbers.
fn range(word: &str) -> Option<(&str, usize, std::ops::RangeInclusive<usize>)> {
    let (first, last) = word.split_once("..")?;
    let stem = first.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &first[stem.len()..];
    Some((stem, digits.len(), digits.parse().ok()?..=last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn roster(words: &[&str], zipf: Option<f64>) -> Result<Roster> {
        Roster::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), zipf)
    }

    #[test]
    fn names_ranges_and_the_base_come_in_turn() {
        let roster = roster(&["none", "a.b", "joke-08..10", "a.b"], None).unwrap();
        assert_eq!((roster.adapters(), roster.first()), (4, None));
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let picked: Vec<_> = (0..7).map(|number| roster.pick(number, &mut rng).unwrap_or("-").to_owned()).collect();
        assert_eq!(picked, ["-", "a.b", "joke-08", "joke-09", "joke-10", "a.b", "-"]);
    }

    #[test]
    fn a_range_that_goes_nowhere_is_refused() {
        for bad in ["a9..1", "a0..99999999", ""] {
            assert!(roster(&[bad], None).is_err(), "{bad}");
        }
        // Two dots alone make no range.
        assert_eq!(roster(&["a..b"], None).unwrap().first(), Some("a..b"));
    }

    #[test]
    fn draws_follow_the_law_of_zipf() {
        let roster = roster(&["a0..9"], Some(1.0)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0_usize; 10];
        let draws = 20_000;
        for number in 0..draws {
            counts[roster.pick(number, &mut rng).unwrap()[1..].parse::<usize>().unwrap()] += 1;
        }
        let all: f64 = (1..=10).map(|rank| 1.0 / f64::from(rank)).sum();
        for (rank, &count) in (1..).zip(&counts) {
            let share = 1.0 / f64::from(rank) / all;
            let deviation = (share * (1.0 - share) / draws as f64).sqrt();
            let seen = count as f64 / draws as f64;
            assert!((seen - share).abs() < 4.0 * deviation, "rank {rank}: {seen} instead of {share}");
        }
    }
}
