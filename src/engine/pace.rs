//! How many tokens of prompts a step may take, so that those who are being answered hardly notice. Knows times, not clocks.

use std::time::Duration;

use crate::model::Warm;

/// What prompts may add to a step, as a share of the time it takes without them. Then the time between two tokens at most
/// doubles while a prompt is computed, and the prompt, which has nearly half of the time, takes about twice as long as alone.
/// Where more wait for their first token than for their next, the share is larger by as much.
const SHARE: f64 = 0.88;
/// How long such a larger share, or a step in which nobody is being answered, may take: who comes meanwhile waits as long, and
/// the weights are read once for so much work.
const UNDISTURBED: f64 = 0.25; // s
/// What prompts may add to any step of a device that was warmed up: nobody who reads an answer sees so short a pause.
const UNNOTICED: f64 = 0.015; // s
/// Tokens of the first steps, when nothing was measured yet. A step may have so many, or twice those of the last; one that
/// disturbs nobody always may, however long the weights take.
const UNKNOWN: usize = 64;
/// Fewer are not worth a step's trouble.
const LEAST: usize = 8;
/// After so many steps with prompts, one without them says again how long that takes; sooner if many rows came or went.
const MIXED: u32 = 64;
const MIXED_OTHERS: u32 = 4;
/// Weight of the newest measurement.
const NEWEST: f64 = 0.25;
/// What takes more than so many times what was expected counts as just that: the machine was busy, or asleep.
const SURPRISE: f64 = 3.0;

/// Measured speeds of this engine.
#[derive(Debug, Default)]
pub struct Pace {
    /// Seconds of a step that only decodes.
    decode: Option<f64>,
    /// Rows of the last such step.
    rows: usize,
    /// Steps with prompts since then.
    mixed: u32,
    /// Seconds that a token of a prompt adds to a step that decodes.
    added: Option<f64>,
    /// Seconds of a token in a step of nothing else, its part of what every step takes included.
    alone: Option<f64>,
    /// Prompt tokens of the last step that had any.
    last: usize,
    /// Known of a model that was warmed up.
    rate: Option<Rate>,
}

/// What prompts add to a step that decodes on a device where a step's first token costs much and its next ones little.
#[derive(Debug)]
struct Rate {
    /// Seconds of each token in a large step.
    token: f64,
    /// Tokens of the largest step.
    most: usize,
    /// Seconds before the first, as measured.
    first: Option<f64>,
}

impl Pace {
    /// What is known of a model that was warmed up.
    pub fn new(warm: Option<Warm>) -> Self {
        let mut pace = Self::default();
        if let Some(Warm { tokens, took }) = warm {
            pace.note(0, tokens, took);
            pace.rate = Some(Rate { token: took.as_secs_f64() / tokens.max(1) as f64, most: tokens, first: None });
        }
        pace
    }

    /// Whether the model was warmed up: its steps are short.
    pub fn is_of_a_warm_model(&self) -> bool {
        self.rate.is_some()
    }

    /// The most prompt tokens of a step in which `decoding` rows decode while `prompts` requests wait for their first token.
    /// None for now and then a step that only decodes.
    pub fn prompt_tokens(&self, decoding: usize, prompts: usize) -> usize {
        // A large step was measured where there was a warm-up: nothing is felt for.
        let most = self.rate.as_ref().map_or(2 * self.last, |rate| rate.most).max(UNKNOWN);
        if decoding == 0 {
            let token = self.rate.as_ref().map(|rate| rate.token).or(self.alone);
            return token.map_or(UNKNOWN, |token| ((UNDISTURBED / token) as usize).clamp(UNKNOWN, most));
        }
        let others = decoding.abs_diff(self.rows) * 4 > self.rows;
        let Some(step) = self.decode.filter(|_| self.mixed < if others { MIXED_OTHERS } else { MIXED }) else {
            return 0;
        };
        let share = step * SHARE;
        let time = (share * prompts as f64 / decoding as f64).min(UNDISTURBED).max(share);
        if let Some(Rate { token, first, .. }) = self.rate {
            let time = time.max(UNNOTICED);
            // However much comes before the first token, a piece is worth it.
            let left = (time - first.unwrap_or(0.0)).max(time / 4.0);
            return ((left / token) as usize).clamp(LEAST, most);
        }
        let Some(token) = self.added.or(self.alone) else { return UNKNOWN };
        ((time / token) as usize).clamp(LEAST, most)
    }

    /// Takes note of how long a step took.
    pub fn note(&mut self, decoding: usize, prompt_tokens: usize, took: Duration) {
        let took = took.as_secs_f64();
        if prompt_tokens > 0 {
            self.last = prompt_tokens;
        }
        match (decoding, prompt_tokens) {
            (0, 0) => {}
            (rows, 0) => {
                // Of other rows nothing is known yet.
                let old = self.decode.filter(|_| rows == self.rows);
                self.decode = mixed(old, took);
                (self.rows, self.mixed) = (rows, 0);
            }
            (0, tokens) => self.alone = mixed(self.alone, took / tokens as f64),
            (_, tokens) => {
                self.mixed += 1;
                // Noise may make a fuller step look faster; a token never costs nothing.
                let added = (took - self.decode.unwrap_or(0.0)).max(took * 0.1);
                self.added = mixed(self.added.or(self.alone), added / tokens as f64);
                if let Some(Rate { token, first, .. }) = &mut self.rate {
                    *first = mixed(*first, (added - *token * tokens as f64).max(0.0));
                }
            }
        }
    }
}

fn mixed(old: Option<f64>, newest: f64) -> Option<f64> {
    Some(old.map_or(newest, |old| old + (newest.min(old * SURPRISE) - old) * NEWEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that needs so many milliseconds for the weights, a row that decodes and a token of a prompt.
    struct Machine(f64, f64, f64);

    impl Machine {
        fn step(&self, decoding: usize, prompt_tokens: usize) -> Duration {
            let ms = self.0 + self.1 * decoding as f64 + self.2 * prompt_tokens as f64;
            Duration::from_secs_f64(ms / 1000.0)
        }

        /// Steps with as many tokens of prompts as there may be; answers how many the next may have.
        fn run(&self, pace: &mut Pace, decoding: usize, steps: usize) -> usize {
            for step in 0..steps {
                let mut tokens = pace.prompt_tokens(decoding, 1);
                // Not every prompt ends with its piece.
                tokens -= step % 4 * tokens / 10;
                pace.note(decoding, tokens, self.step(decoding, tokens));
            }
            match pace.prompt_tokens(decoding, 1) {
                0 => self.run(pace, decoding, 1),
                tokens => tokens,
            }
        }
    }

    const SMALL: Machine = Machine(20.0, 3.0, 2.0);

    #[test]
    fn prompts_add_about_as_much_as_the_step_takes_without_them() {
        let mut pace = Pace::default();
        (0..20).for_each(|_| pace.note(7, 0, SMALL.step(7, 0)));
        let tokens = SMALL.run(&mut pace, 7, 60);
        let ratio = SMALL.step(7, tokens).as_secs_f64() / SMALL.step(7, 0).as_secs_f64();
        assert!((1.7..2.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn many_who_wait_for_their_first_token_get_more_than_few_who_are_being_answered() {
        let mut pace = Pace::default();
        (0..20).for_each(|_| pace.note(2, 0, SMALL.step(2, 0)));
        let few = SMALL.run(&mut pace, 2, 60);
        let took = |tokens| SMALL.step(2, tokens).as_secs_f64();
        assert!((3 * few..=5 * few).contains(&pace.prompt_tokens(2, 8)));
        assert!(took(pace.prompt_tokens(2, 1000)) < UNDISTURBED + took(0));
    }

    #[test]
    fn a_step_that_disturbs_nobody_is_longer() {
        let mut pace = Pace::default();
        assert_eq!(pace.prompt_tokens(0, 1), UNKNOWN);
        assert_eq!(pace.prompt_tokens(3, 1), 0, "first it has to be known how long it takes without prompts");
        let took = SMALL.step(0, SMALL.run(&mut pace, 0, 60)).as_secs_f64();
        assert!((0.2..0.3).contains(&took), "{took}");
    }

    #[test]
    fn a_base_whose_weights_take_longer_than_a_step_may_still_gets_useful_pieces() {
        let large = Machine(600.0, 5.0, 30.0);
        let mut pace = Pace::default();
        assert!(large.run(&mut pace, 0, 60) >= UNKNOWN);
        (0..20).for_each(|_| pace.note(4, 0, large.step(4, 0)));
        let tokens = large.run(&mut pace, 4, 60);
        assert!((14..=20).contains(&tokens), "{tokens}");
    }

    #[test]
    fn load_that_comes_at_once_is_judged_by_what_it_is() {
        let mut pace = Pace::default();
        (0..50).for_each(|_| pace.note(1, 0, SMALL.step(1, 0)));
        // From one reader to 32, and a prompt in every step.
        for rows in 1..=32 {
            SMALL.run(&mut pace, rows, 2);
        }
        let tokens = SMALL.run(&mut pace, 32, 100);
        let right = SHARE * (20.0 + 96.0) / 2.0;
        assert!((0.6 * right..1.5 * right).contains(&(tokens as f64)), "{tokens}, {right} would be right");
    }

    /// A GPU with a base of 1B parameters: milliseconds of a step.
    fn on_a_gpu(decoding: usize, tokens: usize) -> Duration {
        // More whenever there is a prompt, and 4 µs for each of its tokens.
        let first = if tokens > 0 { 2.0 } else { 0.0 };
        let weights = if decoding > 0 { 1.76 } else { 0.0 };
        Duration::from_secs_f64((weights + first + 0.004 * tokens as f64) / 1000.0)
    }

    fn warm() -> Pace {
        Pace::new(Some(Warm { tokens: 8192, took: on_a_gpu(0, 8192) }))
    }

    #[test]
    fn where_the_first_token_costs_much_a_piece_is_what_nobody_notices() {
        let mut pace = warm();
        for _ in 0..60 {
            let tokens = pace.prompt_tokens(31, 1);
            pace.note(31, tokens, on_a_gpu(31, tokens));
        }
        let tokens = (0..3).map(|_| pace.prompt_tokens(31, 1)).max().unwrap();
        let added = on_a_gpu(31, tokens) - on_a_gpu(31, 0);
        assert!((0.012..0.016).contains(&added.as_secs_f64()), "{tokens} tokens add {added:?}");
    }

    #[test]
    fn prompts_that_come_together_after_a_first_one_take_few_steps() {
        let mut pace = warm();
        pace.note(0, 128, on_a_gpu(0, 128));
        let (mut waiting, mut decoding, mut steps, mut took) = (31 * 128, 1, 0, Duration::ZERO);
        while waiting > 0 {
            let tokens = pace.prompt_tokens(decoding, waiting / 128).min(waiting);
            pace.note(decoding, tokens, on_a_gpu(decoding, tokens));
            (waiting, decoding, steps) = (waiting - tokens, decoding + tokens / 128, steps + 1);
            took += on_a_gpu(decoding, tokens);
        }
        assert!(steps <= 3 && took < Duration::from_millis(28), "{steps} steps took {took:?}");
    }

    #[test]
    fn prompts_that_take_longer_than_those_of_the_warm_up_get_smaller_pieces() {
        let mut pace = warm();
        // Adapters, or a long context: three times as long.
        let took = |tokens| on_a_gpu(31, 3 * tokens);
        for _ in 0..100 {
            let tokens = pace.prompt_tokens(31, 1);
            pace.note(31, tokens, took(tokens));
        }
        let tokens = (0..3).map(|_| pace.prompt_tokens(31, 1)).max().unwrap();
        let added = took(tokens) - took(0);
        assert!((0.008..0.020).contains(&added.as_secs_f64()), "{tokens} tokens add {added:?}");
    }

    #[test]
    fn a_pause_of_the_machine_is_soon_forgotten() {
        let mut pace = Pace::default();
        (0..50).for_each(|_| pace.note(7, 0, SMALL.step(7, 0)));
        let before = SMALL.run(&mut pace, 7, 60);
        pace.note(7, before, Duration::from_secs(30));
        assert!(pace.prompt_tokens(7, 1) <= 4 * before);
        let after = SMALL.run(&mut pace, 7, 60);
        assert!((before / 2..=before * 3 / 2).contains(&after), "{before}, then {after}");
    }
}
