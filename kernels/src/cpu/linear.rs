//! Products with a weight matrix, `y = x·Wᵀ`.
//!
//! Every output is one dot product: eight lanes over the inputs, added up at the end, then the inputs left over.
//! Tiles of rows and outputs share loads but never change that order, so a row's result does not depend on how many rows there are.

use rayon::prelude::*;

use super::Weight;

/// Rows that stay in the second-level cache while the outputs pass by.
const ROW_PANEL: usize = 64;
/// Multiplications below which threads cost more than they save.
const SERIAL: usize = 1 << 16;

/// `y = x·Wᵀ`: `x` [rows, inputs], `w` [outputs, inputs], `y` [rows, outputs], which is overwritten.
///
/// # Panics
/// If a slice's length does not fit the shape.
pub fn linear<W: Weight>(x: &[f32], w: &[W], y: &mut [f32], rows: usize, inputs: usize, outputs: usize) {
    assert_eq!(x.len(), rows * inputs, "x is [rows, inputs]");
    assert_eq!(w.len(), outputs * inputs, "w is [outputs, inputs]");
    assert_eq!(y.len(), rows * outputs, "y is [rows, outputs]");
    if rows == 0 || outputs == 0 {
        return;
    }
    let product = Product { x, w, y: y.as_mut_ptr(), rows, inputs, outputs };
    let threads = rayon::current_num_threads();
    if threads == 1 || rows * inputs * outputs < SERIAL {
        return product.columns(0, outputs);
    }
    // A few pieces for each thread, so that a late thread does not hold up the rest; whole tiles, so that no piece is ragged.
    let piece = outputs.div_ceil(threads * 4).next_multiple_of(24);
    (0..outputs.div_ceil(piece)).into_par_iter().for_each(|i| {
        product.columns(i * piece, outputs.min((i + 1) * piece));
    });
}

/// A product under way; pieces of its columns are computed by different threads.
struct Product<'a, W> {
    x: &'a [f32],
    w: &'a [W],
    y: *mut f32,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

// SAFETY: threads write disjoint columns of `y` and only read the rest.
unsafe impl<W: Sync> Sync for Product<'_, W> {}

impl<W: Weight> Product<'_, W> {
    /// Computes columns `from..to` of every row.
    fn columns(&self, from: usize, to: usize) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
        {
            // SAFETY: the features were just detected.
            return unsafe { self.columns_avx2(from, to) };
        }
        for row in 0..self.rows {
            for column in from..to {
                let dot = self.dot(row, column);
                // SAFETY: row and column lie inside `y`, and this thread alone writes the column.
                unsafe { *self.y.add(row * self.outputs + column) = dot };
            }
        }
    }

    /// The plain form of one output, in the order of the tiles.
    fn dot(&self, row: usize, column: usize) -> f32 {
        let x = &self.x[row * self.inputs..][..self.inputs];
        let w = &self.w[column * self.inputs..][..self.inputs];
        let mut lanes = [0f32; 8];
        let (xs, ws) = (x.chunks_exact(8), w.chunks_exact(8));
        let tail: f32 = xs.remainder().iter().zip(ws.remainder()).map(|(x, w)| x * w.widen()).sum();
        for (x, w) in xs.zip(ws) {
            for lane in 0..8 {
                lanes[lane] += x[lane] * w[lane].widen();
            }
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        (((a + e) + (c + g)) + ((b + f) + (d + h))) + tail
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn columns_avx2(&self, from: usize, to: usize) {
        // SAFETY: tiles stay inside rows and columns; the caller vouches for the CPU.
        unsafe {
            let mut panel = 0;
            while panel < self.rows {
                let end = self.rows.min(panel + ROW_PANEL);
                match end - panel {
                    1 => self.sweep::<1, 8>(panel, end, from, to),
                    2 => self.sweep::<2, 6>(panel, end, from, to),
                    3 => self.sweep::<3, 4>(panel, end, from, to),
                    _ => self.sweep::<4, 3>(panel, end, from, to),
                }
                panel = end;
            }
        }
    }

    /// Rows `panel..end` by tiles of `R` rows and `C` columns; what is left over goes by smaller tiles.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sweep<const R: usize, const C: usize>(&self, panel: usize, end: usize, from: usize, to: usize) {
        // SAFETY: as for `columns_avx2`.
        unsafe {
            let mut column = from;
            while column + C <= to {
                let mut row = panel;
                while row + R <= end {
                    self.tile::<R, C>(row, column);
                    row += R;
                }
                while row < end {
                    self.tile::<1, C>(row, column);
                    row += 1;
                }
                column += C;
            }
            while column < to {
                for row in panel..end {
                    self.tile::<1, 1>(row, column);
                }
                column += 1;
            }
        }
    }

    /// One tile: `R × C` dot products side by side.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tile<const R: usize, const C: usize>(&self, row: usize, column: usize) {
        use std::arch::x86_64::*;
        let inputs = self.inputs;
        let whole = inputs - inputs % 8;
        // SAFETY: the caller keeps the tile inside the matrices; loads stop at `whole`.
        unsafe {
            let x = self.x.as_ptr().add(row * inputs);
            let w = self.w.as_ptr().add(column * inputs);
            let mut sums = [[_mm256_setzero_ps(); C]; R];
            let mut k = 0;
            while k < whole {
                let mut weights = [_mm256_setzero_ps(); C];
                for (c, weight) in weights.iter_mut().enumerate() {
                    *weight = W::load8(w.add(c * inputs + k));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let value = _mm256_loadu_ps(x.add(r * inputs + k));
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = _mm256_fmadd_ps(value, weight, *sum);
                    }
                }
                k += 8;
            }
            for (r, sums) in sums.iter().enumerate() {
                for (c, sum) in sums.iter().enumerate() {
                    let mut tail = 0.0;
                    for k in whole..inputs {
                        tail += *x.add(r * inputs + k) * (*w.add(c * inputs + k)).widen();
                    }
                    *self.y.add((row + r) * self.outputs + column + c) = add_lanes(*sum) + tail;
                }
            }
        }
    }
}

/// The sum of eight lanes, in the order of [`Product::dot`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn add_lanes(lanes: std::arch::x86_64::__m256) -> f32 {
    use std::arch::x86_64::*;
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
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
            linear(&x, &w, &mut y, rows, inputs, outputs);
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
            linear(&x[..rows * inputs], &w, &mut y, rows, inputs, outputs);
            for row in 0..rows {
                linear(&x[row * inputs..][..inputs], &w, &mut alone, 1, inputs, outputs);
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
            linear(&x, &narrow, &mut wide, rows, inputs, outputs);
            assert_eq!(wide, y);
        };
        let mut y = vec![0.0; rows * outputs];
        let halves: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
        linear(&x, &halves, &mut y, rows, inputs, outputs);
        check(halves.iter().map(|w| w.to_f32()).collect(), y.clone());
        let halves: Vec<f16> = w.iter().map(|&w| f16::from_f32(w)).collect();
        linear(&x, &halves, &mut y, rows, inputs, outputs);
        check(halves.iter().map(|w| w.to_f32()).collect(), y);
    }
}
