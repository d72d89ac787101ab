//! Matrices, and parts of them, in a GPU's memory.

use std::ops::Range;
use std::sync::Arc;

use super::gpu::Arg;
use super::{Dtype, Slice};

/// Neighbouring columns of the lines of a matrix.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    slice: &'a Slice,
    /// Where the first column of the first line is.
    offset: usize,
    lines: usize,
    /// Numbers from one line to the next.
    stride: usize,
    width: usize,
}

/// How queries, keys and values are cut into heads: heads / kv_heads query heads share one key-value head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl<'a> Matrix<'a> {
    /// All of `slice` [lines, width].
    ///
    /// # Panics
    /// If it is not whole lines.
    pub fn new(slice: &'a Slice, width: usize) -> Self {
        assert!(width > 0 && slice.len().is_multiple_of(width), "{} numbers in lines of {width}", slice.len());
        Self { slice, offset: 0, lines: slice.len() / width, stride: width, width }
    }

    /// `lines` of `width` numbers, `stride` apart.
    ///
    /// # Panics
    /// If they are not in `slice`.
    pub fn strided(slice: &'a Slice, lines: usize, stride: usize, width: usize) -> Self {
        let end = lines.checked_sub(1).map_or(0, |before| before * stride + width);
        assert!(width > 0 && width <= stride && end <= slice.len(), "{lines} lines of {width} in {}", slice.len());
        Self { slice, offset: 0, lines, stride, width }
    }

    /// `lines` lines that are all the one in `slice`; to be read.
    pub fn repeated(slice: &'a Slice, lines: usize) -> Self {
        Self { slice, offset: 0, lines, stride: 0, width: slice.len() }
    }

    /// Some of the columns.
    ///
    /// # Panics
    /// If they lie outside, or there are none.
    pub fn columns(self, columns: Range<usize>) -> Self {
        assert!(columns.start < columns.end && columns.end <= self.width, "columns {columns:?} of {}", self.width);
        Self { offset: self.offset + columns.start, width: columns.len(), ..self }
    }

    /// How many lines.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// How many columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// What its numbers are.
    pub fn dtype(&self) -> Dtype {
        self.slice.dtype()
    }

    /// Lines, columns, dtype: what kernels ask for.
    pub(super) fn is(&self, dtype: Dtype, lines: usize, width: usize) -> bool {
        (self.dtype(), self.lines, self.width) == (dtype, lines, width)
    }

    /// Where its first number is.
    pub(super) fn pointer(&self) -> Arg {
        Arg::Memory(self.address(), Arc::as_ptr(self.slice.gpu()))
    }

    /// Numbers from one line to the next.
    pub(super) fn stride(&self) -> Arg {
        Arg::count(self.stride)
    }

    /// Whether every line begins at a multiple of 16 bytes.
    pub(super) fn aligned(&self) -> bool {
        self.address().is_multiple_of(16) && (self.stride * self.dtype().bytes()).is_multiple_of(16)
    }

    fn address(&self) -> u64 {
        self.slice.pointer() + (self.offset * self.dtype().bytes()) as u64
    }
}

impl Heads {
    /// Columns of all queries of a token.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of all keys, or all values, of a token.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share a key-value head.
    pub fn group(&self) -> usize {
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "{self:?}");
        self.heads / self.kv_heads
    }
}
