//! How many tokens of prompts a step may take, so that those who are being answered hardly notice. Knows times, not clocks.

use std::collections::BTreeMap;
use std::time::Duration;

/// What prompts may add to a step, as a share of the time it takes without them. Then the time between two tokens at most
/// doubles while a prompt is computed, and the prompt, which has nearly half of the time, takes about twice as long as alone.
const SHARE: f64 = 0.9;
/// How long a step may take in which nobody is being answered: who comes meanwhile waits as long, and the weights are read
/// once for so much work.
const UNDISTURBED: f64 = 0.25; // s
/// Tokens of the first steps, when nothing was measured yet.
const UNKNOWN: usize = 64;
/// Fewer are not worth reading the weights for.
const LEAST: usize = 8;
/// Weight of the newest measurement.
const NEWEST: f64 = 0.25;

/// Measured speeds of this engine.
#[derive(Debug, Default)]
pub struct Pace {
    /// Seconds of a step that only decodes, by the binary logarithm of its rows.
    decode: BTreeMap<u32, f64>,
    /// Seconds that a token of a prompt adds to a step.
    token: Option<f64>,
}

impl Pace {
    /// The most prompt tokens of a step in which `decoding` rows decode.
    pub fn prompt_tokens(&self, decoding: usize) -> usize {
        let Some(token) = self.token else { return UNKNOWN };
        let time = match self.decode_step(decoding) {
            _ if decoding == 0 => UNDISTURBED,
            Some(step) => step * SHARE,
            None => return UNKNOWN,
        };
        // A float that is too large for an integer becomes the largest.
        ((time / token) as usize).max(LEAST)
    }

    /// Takes note of how long a step took.
    pub fn note(&mut self, decoding: usize, prompt_tokens: usize, took: Duration) {
        let took = took.as_secs_f64();
        match (decoding, prompt_tokens) {
            (0, 0) => {}
            (_, 0) => {
                let step = self.decode.entry(bucket(decoding)).or_insert(took);
                *step = mixed(*step, took);
            }
            (0, _) => self.note_token(took / prompt_tokens as f64),
            _ => {
                if let Some(step) = self.decode_step(decoding) {
                    // Noise may make a fuller step look faster; a token never costs nothing.
                    self.note_token((took - step).max(took * 0.1) / prompt_tokens as f64);
                }
            }
        }
    }

    /// The time of a step that only decodes about as many rows.
    fn decode_step(&self, rows: usize) -> Option<f64> {
        let at = bucket(rows);
        let fewer = self.decode.range(..=at).next_back();
        fewer.or_else(|| self.decode.range(at..).next()).map(|(_, step)| *step)
    }

    fn note_token(&mut self, seconds: f64) {
        self.token = Some(self.token.map_or(seconds, |average| mixed(average, seconds)));
    }
}

fn bucket(rows: usize) -> u32 {
    rows.max(1).ilog2()
}

fn mixed(average: f64, newest: f64) -> f64 {
    average + (newest - average) * NEWEST
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which a token of a prompt takes 2 ms, a row that decodes 1 ms, and the weights 20 ms.
    fn step(decoding: usize, prompt_tokens: usize) -> Duration {
        Duration::from_millis(20 + decoding as u64 + 2 * prompt_tokens as u64)
    }

    #[test]
    fn prompts_add_about_as_much_as_the_step_takes_without_them() {
        let mut pace = Pace::default();
        (0..20).for_each(|_| pace.note(7, 0, step(7, 0)));
        for _ in 0..40 {
            let tokens = pace.prompt_tokens(7);
            pace.note(7, tokens, step(7, tokens));
        }
        let ratio = step(7, pace.prompt_tokens(7)).as_secs_f64() / step(7, 0).as_secs_f64();
        assert!((1.7..2.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_step_that_disturbs_nobody_is_longer() {
        let mut pace = Pace::default();
        assert_eq!(pace.prompt_tokens(0), UNKNOWN);
        for _ in 0..40 {
            let tokens = pace.prompt_tokens(0);
            pace.note(0, tokens, step(0, tokens));
        }
        let took = step(0, pace.prompt_tokens(0)).as_secs_f64();
        assert!((0.2..0.3).contains(&took), "{took}");
    }

    #[test]
    fn a_number_of_rows_that_was_never_measured_is_judged_by_its_neighbours() {
        let mut pace = Pace::default();
        pace.note(0, 10, Duration::from_millis(20));
        assert_eq!(pace.prompt_tokens(3), UNKNOWN);
        pace.note(1, 0, Duration::from_millis(100));
        assert_eq!(pace.prompt_tokens(60), 45);
    }
}
