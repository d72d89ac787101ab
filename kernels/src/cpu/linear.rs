//! Products with a weight matrix, `y = x·Wᵀ`, on all threads.

use super::ahead::Ahead;
use super::floats::each_type;
use super::product::Product;
use super::tasks::{self, SERIAL, Shared};
use super::{Floats, Weight};

/// `y = x·Wᵀ`: `x` [rows, inputs], `w` [outputs, inputs], `y` [rows, outputs], which is overwritten.
///
/// # Panics
/// If a slice's length does not fit the shape.
pub fn linear(x: &[f32], w: Floats<'_>, y: &mut [f32], rows: usize, inputs: usize, outputs: usize) {
    assert_eq!(x.len(), rows * inputs, "x is [rows, inputs]");
    assert_eq!(w.len(), outputs * inputs, "w is [outputs, inputs]");
    assert_eq!(y.len(), rows * outputs, "y is [rows, outputs]");
    each_type!(w, |w| by_pieces(x, w, Shared(y.as_mut_ptr()), rows, inputs, outputs));
}

fn by_pieces<W: Weight>(x: &[f32], w: &[W], y: Shared, rows: usize, inputs: usize, outputs: usize) {
    let piece = tasks::columns(outputs, inputs * size_of::<W>());
    tasks::run(outputs.div_ceil(piece), rows * inputs * outputs < SERIAL, |i| {
        let mut product = Product { x, w, y: y.at(0), rows, inputs, outputs, ahead: Ahead::default() };
        // SAFETY: the caller checked the shapes, and each task has columns of its own.
        unsafe { product.columns(i * piece, outputs.min((i + 1) * piece)) };
    });
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn random(rng: &mut StdRng, n: usize) -> Vec<f32> {
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    #[test]
    fn it_agrees_with_the_sum_in_double_precision() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..60 {
            let (rows, inputs, outputs) = (rng.random_range(1..70), rng.random_range(1..90), rng.random_range(1..120));
            let (x, w) = (random(&mut rng, rows * inputs), random(&mut rng, outputs * inputs));
            let mut y = vec![f32::NAN; rows * outputs];
            linear(&x, Floats::F32(&w), &mut y, rows, inputs, outputs);
            for row in 0..rows {
                for out in 0..outputs {
                    let exact: f64 =
                        (0..inputs).map(|k| f64::from(x[row * inputs + k]) * f64::from(w[out * inputs + k])).sum();
                    assert!((exact - f64::from(y[row * outputs + out])).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others() {
        let mut rng = StdRng::seed_from_u64(2);
        let (inputs, outputs) = (203, 517);
        let w = random(&mut rng, outputs * inputs);
        let x = random(&mut rng, 71 * inputs);
        let mut alone = vec![0.0; outputs];
        for rows in [1, 2, 3, 4, 5, 8, 63, 64, 65, 67, 71] {
            let mut y = vec![0.0; rows * outputs];
            linear(&x[..rows * inputs], Floats::F32(&w), &mut y, rows, inputs, outputs);
            for row in 0..rows {
                linear(&x[row * inputs..][..inputs], Floats::F32(&w), &mut alone, 1, inputs, outputs);
                assert_eq!(alone, y[row * outputs..][..outputs], "row {row} of {rows}");
            }
        }
    }

    #[test]
    fn narrow_weights_give_what_their_widened_values_give() {
        let mut rng = StdRng::seed_from_u64(3);
        let (rows, inputs, outputs) = (5, 77, 31);
        let x = random(&mut rng, rows * inputs);
        let w = random(&mut rng, outputs * inputs);
        let check = |narrow: Vec<f32>, y: Vec<f32>| {
            let mut wide = vec![0.0; rows * outputs];
            linear(&x, Floats::F32(&narrow), &mut wide, rows, inputs, outputs);
            assert_eq!(wide, y);
        };
        let mut y = vec![0.0; rows * outputs];
        let halves: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
        linear(&x, Floats::Bf16(&halves), &mut y, rows, inputs, outputs);
        check(halves.iter().map(|w| w.to_f32()).collect(), y.clone());
        let halves: Vec<f16> = w.iter().map(|&w| f16::from_f32(w)).collect();
        linear(&x, Floats::F16(&halves), &mut y, rows, inputs, outputs);
        check(halves.iter().map(|w| w.to_f32()).collect(), y);
    }
}
