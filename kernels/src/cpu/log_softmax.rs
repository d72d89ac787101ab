//! Log-softmax of a row of logits, the same to the bit whatever the batch.

/// Independent sums, so that the compiler can use vector registers; a fixed number keeps the order of additions fixed.
const LANES: usize = 16;
/// Numbers that are summed in f32 before the sum moves to f64.
const BLOCK: usize = 64 * LANES;

/// A row of logits without a largest finite one: `token` is the first that is not a number, or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite {
    pub token: usize,
}

/// What turns a row's logits into log-probabilities.
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmax {
    best: usize,
    max: f32,
    log_sum: f32,
}

impl LogSoftmax {
    /// Reads a row twice. `-inf` logits are allowed, NaN and `+inf` are errors, and one logit must be finite.
    pub fn of(logits: &[f32]) -> Result<Self, NotFinite> {
        let max = max(logits);
        // NaN fails this comparison too.
        if !(max.is_finite()) {
            let token = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY).unwrap_or(0);
            return Err(NotFinite { token });
        }
        let best = logits.iter().position(|&logit| logit == max).unwrap_or(0);
        Ok(Self { best, max, log_sum: sum_exp(logits, max).ln() as f32 })
    }

    /// The largest logit's index, the lowest among equals.
    pub fn best(&self) -> usize {
        self.best
    }

    /// Log-probability of a logit of this row.
    pub fn logprob(&self, logit: f32) -> f32 {
        (logit - self.max) - self.log_sum
    }
}

/// The largest number; NaN if there is one among them, `-inf` if there are none.
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut broken = [false; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            let value = chunk[lane];
            lanes[lane] = if value > lanes[lane] { value } else { lanes[lane] };
            broken[lane] |= value.is_nan();
        }
    }
    let rest = chunks.remainder();
    if broken.contains(&true) || rest.iter().any(|value| value.is_nan()) {
        return f32::NAN;
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Sum of `exp(value - max)`; `max` is the largest value and finite.
pub fn sum_exp(values: &[f32], max: f32) -> f64 {
    let mut total = 0.0;
    for block in values.chunks(BLOCK) {
        let mut lanes = [0f32; LANES];
        let mut chunks = block.chunks_exact(LANES);
        for chunk in &mut chunks {
            for lane in 0..LANES {
                lanes[lane] += exp(chunk[lane] - max);
            }
        }
        for (lane, value) in chunks.remainder().iter().enumerate() {
            lanes[lane] += exp(value - max);
        }
        total += lanes.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }
    total
}

/// `exp(x)` for `x <= 0`, to about one unit in the last place (the polynomial of Cephes' `expf`).
///
/// The library's `exp` is a call for each number; this one becomes vector instructions, with the same bits everywhere.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Below this the result is no normal number; zero is right to 1e-38.
    const LOWEST: f32 = -87.0;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > LOWEST { x } else { LOWEST };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the difference is exact.
    let r = (clamped - n * (355.0 / 512.0)) + n * 2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.0e-1;
    let fraction = (p * (r * r) + r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < LOWEST { 0.0 } else { fraction * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_three_parts_in_ten_million() {
        for step in 0..=870_000 {
            let x = -(step as f32) / 10_000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 3e-7 * exact, "exp({x}) = {}, not {exact}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn log_softmax_equals_the_textbook_formula_at_every_length() {
        for len in [1usize, 2, 15, 16, 17, 1000, 1024, 1025, 50_257] {
            let logits: Vec<f32> = (0..len).map(|i| ((i * 7919 % 1013) as f32) / 100.0 - 5.0).collect();
            let exact = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            let softmax = LogSoftmax::of(&logits).unwrap();
            for &logit in logits.iter().take(40) {
                let error = f64::from(softmax.logprob(logit)) - (f64::from(logit) - exact);
                assert!(error.abs() < 2e-6, "length {len}: off by {error}");
            }
        }
    }

    #[test]
    fn the_lowest_id_wins_among_equal_logits() {
        assert_eq!(LogSoftmax::of(&[1.0, 3.0, 3.0, 2.0]).unwrap().best(), 1);
    }

    #[test]
    fn logits_that_are_not_finite_are_errors_and_name_the_token() {
        let mut long = vec![0.0; 100];
        long[70] = f32::NAN;
        assert_eq!(LogSoftmax::of(&long).unwrap_err(), NotFinite { token: 70 });
        assert_eq!(LogSoftmax::of(&[0.0, f32::INFINITY]).unwrap_err(), NotFinite { token: 1 });
        assert_eq!(LogSoftmax::of(&[f32::NEG_INFINITY]).unwrap_err(), NotFinite { token: 0 });
        assert_eq!(LogSoftmax::of(&[]).unwrap_err(), NotFinite { token: 0 });
        assert!(LogSoftmax::of(&[0.0, f32::NEG_INFINITY]).is_ok());
    }
}
