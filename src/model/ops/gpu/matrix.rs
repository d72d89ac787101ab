//! Matrices of a step on a GPU.

use std::ops::Range;
use std::sync::Arc;

use repertoire_kernels::cuda::{self, Dtype, Slice};

use super::arena::Memory;

/// Neighbouring columns of a matrix in the arena.
#[derive(Clone)]
pub struct Part {
    memory: Arc<Memory>,
    /// Columns of the whole matrix.
    pitch: usize,
    columns: Range<usize>,
}

/// A matrix [tokens, width]: the sum that layers add to is f32, what layers read and compute is of the base's dtype. After a norm
/// whose lines are the next sum, both are there.
pub struct Matrix {
    sum: Option<Part>,
    activations: Option<Part>,
}

impl Part {
    /// All columns.
    pub fn whole(memory: Memory, width: usize) -> Self {
        Self { memory: Arc::new(memory), pitch: width, columns: 0..width }
    }

    /// Some of its columns.
    pub fn columns(&self, columns: Range<usize>) -> Self {
        let from = self.columns.start;
        Self { memory: self.memory.clone(), pitch: self.pitch, columns: from + columns.start..from + columns.end }
    }

    /// As kernels take it.
    pub fn matrix(&self) -> cuda::Matrix<'_> {
        cuda::Matrix::new(self.memory.slice(), self.pitch).columns(self.columns.clone())
    }

    /// All numbers of a whole matrix.
    ///
    /// # Panics
    /// If it is some columns only.
    pub fn slice(&self) -> &Slice {
        assert!(self.columns == (0..self.pitch), "columns {:?} of {} are no whole matrix", self.columns, self.pitch);
        self.memory.slice()
    }

    pub fn width(&self) -> usize {
        self.columns.len()
    }

    pub fn dtype(&self) -> Dtype {
        self.memory.slice().dtype()
    }
}

impl Matrix {
    /// What layers read and compute.
    pub fn of_activations(part: Part) -> Self {
        Self { sum: None, activations: Some(part) }
    }

    /// The sum that layers add to.
    pub fn of_sum(part: Part) -> Self {
        Self { sum: Some(part), activations: None }
    }

    /// A sum that can be read too.
    pub fn of_both(sum: Part, activations: Part) -> Self {
        Self { sum: Some(sum), activations: Some(activations) }
    }

    /// The numbers that layers read.
    ///
    /// # Panics
    /// If it is a sum that was not normalised.
    pub fn activations(&self) -> &Part {
        self.activations.as_ref().expect("a body normalises a sum before layers read it")
    }

    /// The numbers that layers add to.
    ///
    /// # Panics
    /// If it is none.
    pub fn sum(&self) -> &Part {
        self.sum.as_ref().expect("a body adds to sums only")
    }

    /// The sum alone, to be changed.
    pub fn into_sum(self) -> Part {
        self.sum.expect("a body adds to sums only")
    }
}
