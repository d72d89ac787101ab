//! Small operations on rows.

use super::floats::each_type;
use super::{Floats, Weight};

/// `y += x`.
pub fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// `y += scale · x`.
pub(super) fn scale_add(y: &mut [f32], x: &[f32], scale: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += scale * x;
    }
}

/// Adds `row` to every row of `y` [.., row.len()].
pub fn add_row(y: &mut [f32], row: Floats<'_>) {
    each_type!(row, |row| add_weights(y, row));
}

/// Multiplies every row of `y` [.., row.len()] by `row`, element by element.
pub fn scale_row(y: &mut [f32], row: Floats<'_>) {
    each_type!(row, |row| scale_weights(y, row));
}

fn add_weights<W: Weight>(y: &mut [f32], row: &[W]) {
    for y in y.chunks_exact_mut(row.len()) {
        for (y, r) in y.iter_mut().zip(row) {
            *y += r.widen();
        }
    }
}

fn scale_weights<W: Weight>(y: &mut [f32], row: &[W]) {
    for y in y.chunks_exact_mut(row.len()) {
        for (y, r) in y.iter_mut().zip(row) {
            *y *= r.widen();
        }
    }
}

/// The dot product of two rows, eight lanes at a time.
#[inline]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (xs, ys) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    (((a + e) + (c + g)) + ((b + f) + (d + h))) + tail
}
