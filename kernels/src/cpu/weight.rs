//! Element types in which weights are held.

use half::{bf16, f16};

/// An element of a weight matrix, widened to f32 for arithmetic.
pub trait Weight: Copy + Send + Sync + 'static {
    /// The exact f32 value.
    fn widen(self) -> f32;

    /// Eight neighbouring elements, widened.
    ///
    /// # Safety
    /// `at` must be readable for eight elements, and the CPU must have AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load8(at: *const Self) -> std::arch::x86_64::__m256;
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

impl Weight for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(at: *const Self) -> __m256 {
        // SAFETY: the caller vouches for eight readable elements.
        unsafe { _mm256_loadu_ps(at) }
    }
}

impl Weight for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(at: *const Self) -> __m256 {
        // A bf16 is the upper half of the f32 of the same value.
        // SAFETY: the caller vouches for eight readable elements and for AVX2.
        unsafe {
            let half = _mm_loadu_si128(at.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
        }
    }
}

impl Weight for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load8(at: *const Self) -> __m256 {
        // SAFETY: the caller vouches for eight readable elements and for F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }
}
