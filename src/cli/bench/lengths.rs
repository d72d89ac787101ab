//! How long prompts are.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// One length for all, or each as likely as any other between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    pub least: usize,
    pub most: usize,
}

impl Lengths {
    /// The length of a prompt.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        // One length leaves the generator alone: a seed makes the prompts it always made.
        if self.least == self.most { self.most } else { rng.random_range(self.least..=self.most) }
    }

    /// Whether a prompt may have this length.
    pub fn contain(&self, tokens: usize) -> bool {
        (self.least..=self.most).contains(&tokens)
    }
}

impl FromStr for Lengths {
    type Err = String;

    /// `128` or `5-50`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse().ok().filter(|number| *number > 0);
        match (number(least), number(most)) {
            (Some(least), Some(most)) if least <= most => Ok(Self { least, most }),
            _ => Err("a number over 0 is expected, or two as in 5-50".into()),
        }
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.least == self.most { write!(f, "{}", self.most) } else { write!(f, "{}-{}", self.least, self.most) }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn lengths_are_read_and_written() {
        for text in ["128", "5-50"] {
            assert_eq!(text.parse::<Lengths>().unwrap().to_string(), text);
        }
        for text in ["", "0", "0-5", "9-5", "5-", "-5", "5-6-7", "many"] {
            assert!(text.parse::<Lengths>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_length_between_two_is_drawn() {
        let lengths: Lengths = "5-8".parse().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let drawn: std::collections::BTreeSet<usize> = (0..100).map(|_| lengths.draw(&mut rng)).collect();
        assert_eq!(drawn, [5, 6, 7, 8].into());
        assert!(lengths.contain(5) && lengths.contain(8) && !lengths.contain(9));
    }
}
