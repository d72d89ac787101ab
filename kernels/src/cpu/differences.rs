//! Gradients beside what small changes make of results.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Checks that `back` makes of an input and the gradient of a function's results that of the input.
pub fn check(count: usize, f: impl Fn(&[f32]) -> Vec<f32>, back: impl Fn(&[f32], Vec<f32>) -> Vec<f32>) {
    const STEP: f32 = 1e-2;
    let mut rng = StdRng::seed_from_u64(count as u64);
    let x: Vec<f32> = (0..count).map(|_| rng.random_range(-1.5..1.5)).collect();
    let weights: Vec<f32> = f(&x).iter().map(|_| rng.random_range(-1.0..1.0)).collect();
    let loss = |x: &[f32]| f(x).iter().zip(&weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum::<f64>();
    let gradient = back(&x, weights.clone());
    assert_eq!(gradient.len(), count);
    for i in 0..count {
        let at = |by: f32| {
            let mut x = x.clone();
            x[i] += by;
            loss(&x)
        };
        // Of fourth order: steps large enough for f32.
        let step = f64::from(STEP);
        let slope = (8.0 * (at(STEP) - at(-STEP)) - (at(2.0 * STEP) - at(-2.0 * STEP))) / (12.0 * step);
        let found = f64::from(gradient[i]);
        assert!((slope - found).abs() < 2e-3 * (1.0 + slope.abs()), "number {i}: {found}, by differences {slope}");
    }
}
