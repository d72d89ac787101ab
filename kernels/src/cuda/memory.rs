//! Numbers in a GPU's memory.

use std::fmt;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUDA_MEMCPY2D, CUmemorytype, CUresult::CUDA_ERROR_OUT_OF_MEMORY};
use cudarc::driver::{CudaSlice, DevicePtr, result};
use half::{bf16, f16};

use super::{Gpu, GpuError, Pinned};

/// What the numbers of a [`Slice`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
    U32,
}

impl Dtype {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// As kernels number the dtypes that they learn only when they run; see `cuda/products.cuh` and `cuda/embed.cu`.
    ///
    /// # Panics
    /// If they are no floats.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 2,
            Self::U32 => panic!("u32 where floats are needed"),
        }
    }
}

/// Some numbers in a GPU's memory, which stays as long as somebody has a slice of it.
///
/// Clones share the memory, as kernels do: one that writes a slice changes it for all.
#[derive(Clone)]
pub struct Slice {
    memory: Arc<CudaSlice<u8>>,
    gpu: Arc<Gpu>,
    /// Bytes before the first number.
    offset: usize,
    len: usize,
    dtype: Dtype,
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slice").field("dtype", &self.dtype).field("len", &self.len).finish_non_exhaustive()
    }
}

impl Slice {
    /// Memory for `len` numbers, whatever was there before.
    pub fn new(gpu: &Arc<Gpu>, dtype: Dtype, len: usize) -> Result<Self, GpuError> {
        gpu.outside_graphs()?;
        // An allocation of no bytes is an error to the driver.
        let bytes = len.checked_mul(dtype.bytes()).ok_or(GpuError::OutOfMemory { bytes: usize::MAX })?.max(1);
        // SAFETY: numbers of every dtype are valid with any bits.
        let memory = unsafe { gpu.stream().alloc(bytes) }.map_err(|error| match error.0 {
            CUDA_ERROR_OUT_OF_MEMORY => GpuError::OutOfMemory { bytes },
            _ => error.into(),
        })?;
        Ok(Self { memory: Arc::new(memory), gpu: gpu.clone(), offset: 0, len, dtype })
    }

    /// f32 numbers, rounded to `dtype`.
    pub fn of(gpu: &Arc<Gpu>, dtype: Dtype, numbers: &[f32]) -> Result<Self, GpuError> {
        let slice = Self::new(gpu, dtype, numbers.len())?;
        slice.write(&to_bytes(dtype, numbers))?;
        Ok(slice)
    }

    /// u32 numbers.
    pub fn of_u32(gpu: &Arc<Gpu>, numbers: &[u32]) -> Result<Self, GpuError> {
        let slice = Self::new(gpu, Dtype::U32, numbers.len())?;
        slice.write(&numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
        Ok(slice)
    }

    /// Some of the numbers; shares the memory.
    ///
    /// # Panics
    /// If they lie outside.
    pub fn part(&self, numbers: Range<usize>) -> Self {
        assert!(numbers.start <= numbers.end && numbers.end <= self.len, "{numbers:?} of {}", self.len);
        let offset = self.offset + numbers.start * self.dtype.bytes();
        Self { offset, len: numbers.len(), ..self.clone() }
    }

    /// `len` numbers of `dtype` in the same memory, from a byte on.
    ///
    /// # Panics
    /// If they lie outside, or not at a multiple of their size.
    pub fn part_as(&self, start: usize, dtype: Dtype, len: usize) -> Self {
        let bytes = self.len * self.dtype.bytes();
        let end = len.checked_mul(dtype.bytes()).and_then(|len| start.checked_add(len));
        assert!(end.is_some_and(|end| end <= bytes), "{len} numbers from byte {start} of {bytes}");
        let offset = self.offset + start;
        assert!(offset.is_multiple_of(dtype.bytes()), "numbers at multiples of their size");
        Self { offset, len, dtype, ..self.clone() }
    }

    /// This slice and the one that follows it in memory, if `next` is that.
    pub fn joined(&self, next: &Self) -> Option<Self> {
        let end = self.offset + self.len * self.dtype.bytes();
        let follows = Arc::ptr_eq(&self.memory, &next.memory) && end == next.offset && self.dtype == next.dtype;
        follows.then(|| Self { len: self.len + next.len, ..self.clone() })
    }

    /// How many numbers.
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What they are.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Copies bytes there, in the order of the stream; they may be changed as soon as this returns.
    ///
    /// # Panics
    /// If there are not as many as the numbers have.
    pub fn write(&self, bytes: &[u8]) -> Result<(), GpuError> {
        assert_eq!(bytes.len(), self.bytes(), "as many bytes as the slice has");
        if bytes.is_empty() {
            return Ok(());
        }
        // A graph would read the bytes again whenever it is launched.
        self.gpu.outside_graphs()?;
        // SAFETY: the memory is there, and long enough. Pageable memory is copied before the call returns.
        unsafe { result::memcpy_htod_async(self.pointer(), bytes, self.gpu.bound_stream()?) }?;
        Ok(())
    }

    /// Copies the bytes `at` there, in the order of the stream. They have to stay as they are until the stream has passed: until
    /// a [`Mark`](super::Mark) recorded after is done.
    ///
    /// # Panics
    /// If they lie outside, are not as many as the numbers have, or are another GPU's.
    pub fn write_from(&self, pinned: &Pinned, at: Range<usize>) -> Result<(), GpuError> {
        assert_eq!(at.len(), self.bytes(), "as many bytes as the slice has");
        self.check_pinned(pinned, &at);
        self.gpu.outside_graphs()?;
        if !at.is_empty() {
            // SAFETY: both are there, and long enough; page-locked memory is freed once the stream has passed.
            unsafe { result::memcpy_htod_async(self.pointer(), &pinned[at], self.gpu.bound_stream()?) }?;
        }
        Ok(())
    }

    /// Copies rows that lie one after the other from `from_byte` on, each of `width` numbers, to rows here whose first numbers
    /// are `pitch` apart; what lies between stays. As for [`write_from`](Self::write_from), the bytes have to stay as they are.
    ///
    /// # Panics
    /// If the rows lie outside, here or there, overlap here, or are another GPU's.
    pub fn write_rows(
        &self,
        pinned: &Pinned,
        from_byte: usize,
        width: usize,
        rows: usize,
        pitch: usize,
    ) -> Result<(), GpuError> {
        let size = self.dtype.bytes();
        let end = rows.checked_mul(width).and_then(|n| n.checked_mul(size)?.checked_add(from_byte));
        self.check_pinned(pinned, &(from_byte..end.unwrap_or(usize::MAX)));
        self.gpu.outside_graphs()?;
        if rows == 0 || width == 0 {
            return Ok(());
        }
        let last = (rows - 1).checked_mul(pitch).and_then(|last| last.checked_add(width));
        assert!(
            width <= pitch && last.is_some_and(|last| last <= self.len),
            "{rows} rows of {width}, {pitch} apart, of {}",
            self.len
        );
        let copy = CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
            srcHost: pinned[from_byte..].as_ptr().cast(),
            srcDevice: 0,
            srcArray: null_mut(),
            srcPitch: width * size,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: null_mut(),
            dstDevice: self.pointer(),
            dstArray: null_mut(),
            dstPitch: pitch * size,
            WidthInBytes: width * size,
            Height: rows,
        };
        // SAFETY: rows lie inside both, as was checked; page-locked memory is freed once the stream has passed.
        unsafe { sys::cuMemcpy2DAsync_v2(&raw const copy, self.gpu.bound_stream()?) }.result()?;
        Ok(())
    }

    /// Copies the numbers to the bytes from `at_byte` on, in the order of the stream. Look at them once the stream has passed:
    /// after [`Gpu::synchronize`], or once a [`Mark`](super::Mark) recorded after is done.
    ///
    /// # Panics
    /// If there is no room for them, or the bytes are another GPU's.
    pub fn read_to(&self, pinned: &mut Pinned, at_byte: usize) -> Result<(), GpuError> {
        let at = at_byte..at_byte.saturating_add(self.bytes());
        self.check_pinned(pinned, &at);
        self.gpu.outside_graphs()?;
        if !at.is_empty() {
            // SAFETY: both are there, and long enough; page-locked memory is freed once the stream has passed.
            unsafe { result::memcpy_dtoh_async(&mut pinned[at], self.pointer(), self.gpu.bound_stream()?) }?;
        }
        Ok(())
    }

    /// Copies other numbers of the GPU here, in the order of the stream; in a graph too.
    ///
    /// # Panics
    /// If they are not as many, of another dtype, another GPU's, or some of these.
    pub fn copy_from(&self, other: &Self) -> Result<(), GpuError> {
        assert_eq!((other.dtype, other.len), (self.dtype, self.len), "numbers like those of the slice");
        let (from, to, bytes) = (other.pointer_for(self), self.pointer(), self.bytes());
        assert!(from.abs_diff(to) >= bytes as u64, "numbers that lie elsewhere");
        if bytes > 0 {
            // SAFETY: both are there, long enough, and apart.
            unsafe { result::memcpy_dtod_async(to, from, bytes, self.gpu.bound_stream()?) }?;
        }
        Ok(())
    }

    /// Makes all numbers zero, in the order of the stream; in a graph too.
    pub fn zero(&self) -> Result<(), GpuError> {
        if self.len > 0 {
            // SAFETY: the memory is there; bytes of zero are a zero of every dtype.
            unsafe { result::memset_d8_async(self.pointer(), 0, self.bytes(), self.gpu.bound_stream()?) }?;
        }
        Ok(())
    }

    /// The numbers as f32; waits for everything before.
    pub fn to_f32(&self) -> Result<Vec<f32>, GpuError> {
        let bytes = self.read()?;
        Ok(match self.dtype {
            Dtype::F32 => numbers(&bytes, f32::from_le_bytes),
            Dtype::F16 => numbers(&bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::Bf16 => numbers(&bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::U32 => numbers(&bytes, |b| u32::from_le_bytes(b) as f32),
        })
    }

    /// The numbers of a slice of u32; waits for everything before.
    pub fn to_u32(&self) -> Result<Vec<u32>, GpuError> {
        assert_eq!(self.dtype, Dtype::U32);
        Ok(numbers(&self.read()?, u32::from_le_bytes))
    }

    fn read(&self) -> Result<Vec<u8>, GpuError> {
        // A graph would write to the bytes whenever it is launched.
        self.gpu.outside_graphs()?;
        let mut bytes = vec![0; self.bytes()];
        if !bytes.is_empty() {
            // SAFETY: the memory is there; the copy is waited for before the bytes are looked at.
            unsafe { result::memcpy_dtoh_async(&mut bytes, self.pointer(), self.gpu.bound_stream()?) }?;
        }
        self.gpu.synchronize()?;
        Ok(bytes)
    }

    /// How many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        self.len * self.dtype.bytes()
    }

    fn check_pinned(&self, pinned: &Pinned, at: &Range<usize>) {
        assert!(at.start <= at.end && at.end <= pinned.len(), "bytes {at:?} of {}", pinned.len());
        assert!(Arc::ptr_eq(&self.gpu, pinned.gpu()), "memory of another GPU");
    }

    /// Whose memory it is.
    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Where they are, for what another slice of the same GPU says.
    ///
    /// # Panics
    /// If that is another GPU's.
    pub(super) fn pointer_for(&self, other: &Self) -> u64 {
        assert!(Arc::ptr_eq(&self.gpu, &other.gpu), "memory of another GPU");
        self.pointer()
    }

    /// Whether they begin at a multiple of 16 bytes.
    pub(super) fn aligned(&self) -> bool {
        self.pointer().is_multiple_of(16)
    }

    /// Where they are, for a kernel.
    pub(super) fn pointer(&self) -> u64 {
        let (start, _guard) = self.memory.device_ptr(self.gpu.stream());
        start + self.offset as u64
    }
}

/// f32 numbers, rounded to `dtype`, as they are stored.
pub(super) fn to_bytes(dtype: Dtype, numbers: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F16 => numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Dtype::Bf16 => numbers.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        Dtype::U32 => panic!("u32 numbers are not made of f32: use Slice::of_u32"),
    }
}

fn numbers<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&bytes| number(bytes)).collect()
}

#[cfg(test)]
mod tests;
