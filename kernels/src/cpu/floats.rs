//! Numbers as they are stored.

use std::ops::Range;

use half::{bf16, f16};

use super::Weight;

/// Stored numbers of one type. Kernels choose the code for the type themselves, so that none is compiled into their callers.
#[derive(Clone, Copy, Debug)]
pub enum Floats<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

/// Runs `$body` with `$w` bound to the slice, whatever its type.
macro_rules! each_type {
    ($floats:expr, |$w:ident| $body:expr) => {
        match $floats {
            crate::cpu::Floats::F32($w) => $body,
            crate::cpu::Floats::Bf16($w) => $body,
            crate::cpu::Floats::F16($w) => $body,
        }
    };
}
pub(super) use each_type;

impl<'a> Floats<'a> {
    /// How many there are.
    pub fn len(self) -> usize {
        each_type!(self, |w| w.len())
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Bytes of one of them.
    pub fn width(self) -> usize {
        match self {
            Self::F32(_) => size_of::<f32>(),
            Self::Bf16(_) | Self::F16(_) => size_of::<bf16>(),
        }
    }

    /// Those at the places `range`.
    pub fn part(self, range: Range<usize>) -> Floats<'a> {
        match self {
            Self::F32(w) => Self::F32(&w[range]),
            Self::Bf16(w) => Self::Bf16(&w[range]),
            Self::F16(w) => Self::F16(&w[range]),
        }
    }

    /// Row `index` of a table [.., width].
    pub fn row(self, index: usize, width: usize) -> Floats<'a> {
        self.part(index * width..(index + 1) * width)
    }

    /// Widens all to f32, which is exact; `out` is as long.
    pub fn copy_to(self, out: &mut [f32]) {
        each_type!(self, |w| widen(w, out));
    }
}

fn widen<W: Weight>(from: &[W], out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(from) {
        *out = value.widen();
    }
}
