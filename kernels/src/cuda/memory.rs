//! Numbers in a GPU's memory.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
use cudarc::driver::{CudaSlice, DevicePtr};
use half::{bf16, f16};

use super::{Gpu, GpuError};

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
        assert_eq!(bytes.len(), self.len * self.dtype.bytes(), "as many bytes as the slice has");
        if bytes.is_empty() {
            return Ok(());
        }
        // A graph would read the bytes again whenever it is launched.
        self.gpu.outside_graphs()?;
        let stream = self.gpu.stream();
        stream.context().bind_to_thread()?;
        // SAFETY: the memory is there, and long enough. Pageable memory is copied before the call returns.
        unsafe { cudarc::driver::result::memcpy_htod_async(self.pointer(), bytes, stream.cu_stream()) }?;
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
        let mut bytes = vec![0; self.len * self.dtype.bytes()];
        if !bytes.is_empty() {
            let stream = self.gpu.stream();
            stream.context().bind_to_thread()?;
            // SAFETY: the memory is there; the copy is waited for before the bytes are looked at.
            unsafe { cudarc::driver::result::memcpy_dtoh_async(&mut bytes, self.pointer(), stream.cu_stream()) }?;
        }
        self.gpu.synchronize()?;
        Ok(bytes)
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
