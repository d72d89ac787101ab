//! Products with a weight matrix, `y = x·Wᵀ`, by tiles.
//!
//! Every output is one dot product: eight lanes over the inputs, added up at the end, then the inputs left over.
//! Tiles of rows and outputs share loads but never change that order, so a row's result does not depend on how many rows there are.

use super::Weight;
use super::ahead::Ahead;
#[cfg(target_arch = "x86_64")]
use super::ahead::fetch;

/// Rows that stay in the second-level cache while the outputs pass by.
pub(super) const ROW_PANEL: usize = 64;

/// Inputs between two looks at what to fetch.
const STRETCH: usize = 64;

/// Whether this machine has what the wide code needs.
#[cfg(target_arch = "x86_64")]
pub(super) fn wide() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("f16c")
}

/// Runs `f`, compiled for wide vectors where the machine has them: what is inlined in it becomes vector code, and its multiply-adds
/// single instructions.
#[inline(always)]
pub(super) fn vectorised(f: impl FnOnce()) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2(f: impl FnOnce()) {
            f();
        }
        if wide() {
            // SAFETY: the features were detected.
            return unsafe { with_avx2(f) };
        }
    }
    f();
}

/// A product under way; pieces of its columns are computed by different threads.
pub(super) struct Product<'a, W> {
    /// [rows, inputs].
    pub x: &'a [f32],
    /// [outputs, inputs].
    pub w: &'a [W],
    /// [rows, outputs].
    pub y: *mut f32,
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// What to bring into the cache meanwhile.
    pub ahead: Ahead<'a>,
}

/// How often a product of this size looks at what to fetch, about.
pub(super) fn stretches(rows: usize, inputs: usize, columns: usize) -> usize {
    let tiles = match rows {
        0..4 => columns.div_ceil(4),
        _ => rows.div_ceil(4) * columns.div_ceil(3),
    };
    tiles * inputs.div_ceil(STRETCH)
}

impl<W: Weight> Product<'_, W> {
    /// Computes columns `from..to` of every row.
    ///
    /// # Safety
    /// The matrices have their shapes, and no other thread touches these columns of `y`.
    pub(super) unsafe fn columns(&mut self, from: usize, to: usize) {
        #[cfg(target_arch = "x86_64")]
        if wide() {
            // SAFETY: the features were detected.
            return unsafe { self.columns_avx2(from, to) };
        }
        for row in 0..self.rows {
            for column in from..to {
                let x = &self.x[row * self.inputs..][..self.inputs];
                let dot = dot(x, &self.w[column * self.inputs..][..self.inputs]);
                // SAFETY: row and column lie inside `y`, and this thread alone writes the column.
                unsafe { *self.y.add(row * self.outputs + column) = dot };
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn columns_avx2(&mut self, from: usize, to: usize) {
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
    unsafe fn sweep<const R: usize, const C: usize>(&mut self, panel: usize, end: usize, from: usize, to: usize) {
        // SAFETY: as for `columns_avx2`.
        unsafe {
            let mut column = from;
            while column + C <= to {
                let mut row = panel;
                while row + R <= end {
                    self.tile::<R, C>(row, column, row == panel);
                    row += R;
                }
                while row < end {
                    self.tile::<1, C>(row, column, row == panel);
                    row += 1;
                }
                column += C;
            }
            while column < to {
                for row in panel..end {
                    self.tile::<1, 1>(row, column, row == panel);
                }
                column += 1;
            }
        }
    }

    /// One tile: `R × C` dot products side by side. Of the tiles of some columns, the `first` fetches the next columns' weights:
    /// the machine's own prefetching loses its way among `C` short rows.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn tile<const R: usize, const C: usize>(&mut self, row: usize, column: usize, first: bool) {
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
                let stop = whole.min(k + STRETCH);
                if first {
                    for c in C..2 * C {
                        fetch::<_MM_HINT_T0>(w.wrapping_add(c * inputs + k).cast(), (stop - k) * size_of::<W>());
                    }
                }
                self.ahead.fetch();
                while k < stop {
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

/// The plain form of one output, in the order of the tiles.
pub(super) fn dot<W: Weight>(x: &[f32], w: &[W]) -> f32 {
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

/// The sum of eight lanes, in the order of [`dot`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn add_lanes(lanes: std::arch::x86_64::__m256) -> f32 {
    use std::arch::x86_64::*;
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}
