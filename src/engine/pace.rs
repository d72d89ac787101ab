//! How many tokens of prompts a step may take, so that those who are being answered hardly notice. Knows times, not clocks.

use std::time::Duration;

/// What prompts may add to a step, as a share of the time it takes without them. Then the time between two tokens at most
/// doubles while a prompt is computed, and the prompt, which has nearly half of the time, takes about twice as long as alone.
/// Where more wait for their first token than for their next, the share is larger by as much.
const SHARE: f64 = 0.9;
/// How long such a larger share, or a step in which nobody is being answered, may take: who comes meanwhile waits as long, and
/// the weights are read once for so much work. Where reading them alone takes long, prompts may take as long again.
const UNDISTURBED: f64 = 0.25; // s
/// Tokens of the first steps, when nothing was measured yet. A step may have so many, or twice those of the last.
const UNKNOWN: usize = 64;
/// Fewer are not worth a step of their own.
const LEAST: usize = 8;
/// Units in which rows and tokens are about as large as 1.
const ROWS: f64 = 8.0;
const TOKENS: f64 = 64.0;
/// How much the past still counts after a step.
const MEMORY: f64 = 0.95;
/// How much the last costs count in the next, against a step of the past.
const INERTIA: f64 = 1e-3;
/// A step that takes more than so many times what was expected counts as just that: the machine was busy, or asleep.
const SURPRISE: f64 = 3.0;

/// Measured speeds of this engine: the time of a step as `cost · [1, rows that decode / 8, tokens of prompts / 64]`, by least squares
/// over the last steps.
#[derive(Debug, Default)]
pub struct Pace {
    /// Seconds; no part is negative.
    cost: [f64; 3],
    /// Sums over steps, newer ones more: of products of what steps had ...
    moments: [[f64; 3]; 3],
    /// ... and of these with their times.
    times: [f64; 3],
    /// Prompt tokens of the last step that had any.
    last: usize,
}

impl Pace {
    /// The most prompt tokens of a step in which `decoding` rows decode while `prompts` requests wait for their first token.
    pub fn prompt_tokens(&self, decoding: usize, prompts: usize) -> usize {
        let [fixed, row, token] = [self.cost[0], self.cost[1] / ROWS, self.cost[2] / TOKENS];
        let undisturbed = (UNDISTURBED - fixed).max(fixed);
        let time = match decoding {
            0 => undisturbed,
            rows => {
                let share = SHARE * (fixed + row * rows as f64);
                (share * prompts as f64 / rows as f64).min(undisturbed).max(share)
            }
        };
        // Nothing measured is 0/0. A float too large for an integer becomes the largest, not a number becomes 0.
        let affordable = (time / token) as usize;
        let most = UNKNOWN.max(2 * self.last);
        match (affordable, decoding) {
            (0, _) if token == 0.0 => UNKNOWN,
            (tokens, 0) => tokens.clamp(UNKNOWN, most),
            (tokens, _) => tokens.clamp(LEAST, most),
        }
    }

    /// Takes note of how long a step took.
    pub fn note(&mut self, decoding: usize, prompt_tokens: usize, took: Duration) {
        let step = [1.0, decoding as f64 / ROWS, prompt_tokens as f64 / TOKENS];
        let expected: f64 = self.cost.iter().zip(step).map(|(cost, amount)| cost * amount).sum();
        let mut took = took.as_secs_f64();
        // What was never seen is no surprise.
        if expected > 0.0 && (prompt_tokens == 0 || self.cost[2] > 0.0) {
            took = took.min(SURPRISE * expected);
        }
        for i in 0..3 {
            for j in 0..3 {
                self.moments[i][j] = self.moments[i][j] * MEMORY + step[i] * step[j];
            }
            self.times[i] = self.times[i] * MEMORY + step[i] * took;
        }
        self.fit();
        if prompt_tokens > 0 {
            self.last = prompt_tokens;
        }
    }

    /// Solves the normal equations, drawn slightly towards the last costs: where the last steps were all alike and cannot tell
    /// the parts from each other, what earlier ones said of it remains.
    fn fit(&mut self) {
        let (mut m, mut t) = (self.moments, self.times);
        for i in 0..3 {
            m[i][i] += INERTIA;
            t[i] += INERTIA * self.cost[i];
        }
        // Gaussian elimination; what is added above keeps the pivots positive.
        for pivot in 0..3 {
            for row in 0..3 {
                if row != pivot {
                    let factor = m[row][pivot] / m[pivot][pivot];
                    let (from, by) = (m[pivot], t[pivot]);
                    m[row].iter_mut().zip(from).for_each(|(m, p)| *m -= factor * p);
                    t[row] -= factor * by;
                }
            }
        }
        self.cost = std::array::from_fn(|i| (t[i] / m[i][i]).max(0.0));
    }
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

        /// Steps with as many tokens of prompts as there may be; answers those of the last.
        fn run(&self, pace: &mut Pace, decoding: usize, steps: usize) -> usize {
            for step in 0..steps {
                let mut tokens = pace.prompt_tokens(decoding, 1);
                // Not every prompt ends with its piece.
                tokens -= step % 4 * tokens / 10;
                pace.note(decoding, tokens, self.step(decoding, tokens));
            }
            pace.prompt_tokens(decoding, 1)
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
        assert_eq!((pace.prompt_tokens(0, 1), pace.prompt_tokens(3, 1)), (UNKNOWN, UNKNOWN));
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
        let right = 0.9 * (20.0 + 96.0) / 2.0;
        assert!((0.6 * right..1.5 * right).contains(&(tokens as f64)), "{tokens}, {right} would be right");
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
