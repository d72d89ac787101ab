//! Products of two matrices as gradients need them: either may be read across.

use super::floats::each_type;
use super::{Floats, Weight};

/// Rows of a narrow weight that are widened at once.
const WIDENED: usize = 256;

/// A matrix of f32 numbers, some lines after the other or read across.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    numbers: &'a [f32],
    lines: usize,
    width: usize,
    /// From a number to the next line's, and to the next one of its line.
    strides: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// [lines, width], a line after the other.
    ///
    /// # Panics
    /// If there are not as many numbers.
    pub fn new(numbers: &'a [f32], lines: usize, width: usize) -> Self {
        assert_eq!(numbers.len(), lines * width, "numbers are [lines, width]");
        Self { numbers, lines, width, strides: (width, 1) }
    }

    /// The same read across: [width, lines].
    pub fn across(self) -> Self {
        Self { lines: self.width, width: self.lines, strides: (self.strides.1, self.strides.0), ..self }
    }
}

/// `out = keep · out + scale · a·b`, with `out` [lines of a, width of b], a line after the other; with `keep` 0, whatever was there.
/// Sums have one order for a number of threads.
///
/// # Panics
/// If shapes do not fit.
pub fn multiply(a: Matrix<'_>, b: Matrix<'_>, keep: f32, scale: f32, out: &mut [f32]) {
    assert_eq!(a.width, b.lines, "a is as wide as b has lines");
    assert_eq!(out.len(), a.lines * b.width, "out is [lines of a, width of b]");
    if out.is_empty() {
        return;
    }
    if a.width == 0 {
        return out.iter_mut().for_each(|x| *x *= keep);
    }
    let threads = if a.lines * b.width * a.width < 1 << 18 { 1 } else { rayon::current_num_threads() };
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    let stride = |stride: usize| stride as isize;
    // SAFETY: the shapes were checked, and strides stay inside what matrices were made of.
    unsafe {
        gemm::gemm(
            a.lines,
            b.width,
            a.width,
            out.as_mut_ptr(),
            1,
            stride(b.width),
            keep != 0.0,
            a.numbers.as_ptr(),
            stride(a.strides.1),
            stride(a.strides.0),
            b.numbers.as_ptr(),
            stride(b.strides.1),
            stride(b.strides.0),
            keep,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `dx = dy·W`, what a linear layer's outputs `dy` [lines, outputs] say of its inputs: `w` [outputs, inputs], `dx` [lines, inputs],
/// which is overwritten.
///
/// # Panics
/// If a slice's length does not fit the shape.
pub fn linear_back(dy: &[f32], w: Floats<'_>, dx: &mut [f32], lines: usize, inputs: usize, outputs: usize) {
    assert_eq!(w.len(), outputs * inputs, "w is [outputs, inputs]");
    let dy = Matrix::new(dy, lines, outputs);
    match w {
        Floats::F32(w) => multiply(dy, Matrix::new(w, outputs, inputs), 0.0, 1.0, dx),
        w => each_type!(w, |w| widened(dy, w, dx, inputs)),
    }
}

/// Some rows of the weight after the other.
fn widened<W: Weight>(dy: Matrix<'_>, w: &[W], dx: &mut [f32], inputs: usize) {
    let mut wide = vec![0.0; WIDENED.min(dy.width) * inputs];
    dx.fill(0.0);
    for (i, rows) in w.chunks(WIDENED * inputs).enumerate() {
        let wide = &mut wide[..rows.len()];
        wide.iter_mut().zip(rows).for_each(|(wide, w)| *wide = w.widen());
        let part = Matrix { numbers: &dy.numbers[i * WIDENED..], width: rows.len() / inputs, ..dy };
        multiply(part, Matrix::new(wide, rows.len() / inputs, inputs), 1.0, 1.0, dx);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn random(rng: &mut StdRng, n: usize) -> Vec<f32> {
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    #[test]
    fn products_agree_with_double_precision_however_matrices_are_read() {
        let mut rng = StdRng::seed_from_u64(1);
        for case in 0..60 {
            let (lines, inner, width) = (rng.random_range(1..40), rng.random_range(1..300), rng.random_range(1..60));
            let (a, b) = (random(&mut rng, lines * inner), random(&mut rng, inner * width));
            let (across_a, across_b) = (case % 2 == 1, case % 4 >= 2);
            let at = |line: usize, k: usize| if across_a { a[k * lines + line] } else { a[line * inner + k] };
            let bt = |k: usize, column: usize| if across_b { b[column * inner + k] } else { b[k * width + column] };
            let before = random(&mut rng, lines * width);
            let mut out = before.clone();
            let a = if across_a { Matrix::new(&a, inner, lines).across() } else { Matrix::new(&a, lines, inner) };
            let b = if across_b { Matrix::new(&b, width, inner).across() } else { Matrix::new(&b, inner, width) };
            let keep = [0.0, 1.0, 0.5][case % 3];
            if keep == 0.0 {
                out.fill(f32::NAN);
            }
            multiply(a, b, keep, 2.0, &mut out);
            for line in 0..lines {
                for column in 0..width {
                    let sum: f64 = (0..inner).map(|k| f64::from(at(line, k)) * f64::from(bt(k, column))).sum();
                    let exact = 2.0 * sum + f64::from(keep) * f64::from(before[line * width + column]);
                    assert!((exact - f64::from(out[line * width + column])).abs() < 1e-4, "case {case}");
                }
            }
        }
    }

    #[test]
    fn a_narrow_weight_gives_what_its_widened_values_give() {
        let mut rng = StdRng::seed_from_u64(2);
        for outputs in [3, WIDENED, 2 * WIDENED + 5] {
            let (lines, inputs) = (7, 19);
            let dy = random(&mut rng, lines * outputs);
            let w: Vec<bf16> = random(&mut rng, outputs * inputs).into_iter().map(bf16::from_f32).collect();
            let wide: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
            let [mut dx, mut exact] = [0, 1].map(|_| vec![f32::NAN; lines * inputs]);
            linear_back(&dy, Floats::Bf16(&w), &mut dx, lines, inputs, outputs);
            linear_back(&dy, Floats::F32(&wide), &mut exact, lines, inputs, outputs);
            assert!(dx.iter().zip(&exact).all(|(x, y)| (x - y).abs() < 1e-4));
        }
    }
}
