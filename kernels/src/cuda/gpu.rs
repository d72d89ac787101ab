//! One GPU: its context, its stream, and the functions loaded into it.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::sys::{self, CUdevice_attribute, CUfunction_attribute, CUresult, is_culib_present};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError};
use cudarc::nvrtc::Ptx;

use super::Slice;
use super::graph::relaxed;
use super::sources::{self, PRODUCT, Source};

/// The oldest architecture that the kernels are compiled for: Ampere.
const OLDEST: (i32, i32) = (8, 0);
/// The oldest driver, as it counts: that of CUDA 13.0.
const OLDEST_DRIVER: i32 = 13_000;
/// Bytes of shared memory that the largest block takes for which there is no other.
const MOST_SHARED: u32 = 98_304;

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    #[error("this program was built without kernels for GPUs: build it with --features cuda")]
    NotBuilt,
    #[error("the NVIDIA driver (libcuda.so.1) is not there")]
    NoDriver,
    #[error("there is no GPU {ordinal}: {count} can be seen")]
    NoDevice { ordinal: usize, count: usize },
    #[error("{name} has compute capability {0}.{1}; 8.0 (Ampere) or later is needed", .capability.0, .capability.1)]
    TooOld { name: String, capability: (i32, i32) },
    #[error("{name} has {bytes} bytes of shared memory for a block; {MOST_SHARED} are needed")]
    LittleShared { name: String, bytes: u32 },
    #[error(
        "the NVIDIA driver is of CUDA {}.{}; 13.0 (driver 580) or later is needed",
        .version / 1000,
        .version % 1000 / 10
    )]
    OldDriver { version: i32 },
    #[error(
        "memory cannot be taken, read or written by the processor, nor the GPU waited for, while a graph is captured"
    )]
    Capturing,
    #[error("the GPU's memory is full: {bytes} bytes were asked for")]
    OutOfMemory { bytes: usize },
    #[error("the system gives no {bytes} bytes of page-locked memory")]
    OutOfPinned { bytes: usize },
    #[error("the library cuBLASLt (libcublasLt.so) of CUDA 13 is not there")]
    NoCublas,
    #[error("cuBLASLt failed: {0}")]
    Cublas(#[from] cudarc::cublaslt::result::CublasError),
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// A GPU, opened. Everything on it runs in the order of calls.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    /// Each with the shared memory it was allowed.
    functions: Mutex<HashMap<&'static str, (CudaFunction, u32)>>,
    multiprocessors: u32,
    /// Bytes of shared memory of a multiprocessor, and those that each block takes beside its own.
    shared: (u32, u32),
    /// Bytes of shared memory that a block may ask for.
    block_bytes: u32,
    /// See [`Gpu::is_hopper`].
    is_hopper: OnceLock<bool>,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Arg {
    /// No memory.
    Null,
    /// An address, and whose it is.
    Memory(u64, *const Gpu),
    U32(u32),
    F32(f32),
}

/// The name of a kernel's instance for a dtype of activations.
macro_rules! instance {
    ($name:literal, $dtype:expr) => {
        match $dtype {
            $crate::cuda::Dtype::F32 => concat!($name, "_f32"),
            $crate::cuda::Dtype::F16 => concat!($name, "_f16"),
            $crate::cuda::Dtype::Bf16 => concat!($name, "_bf16"),
            $crate::cuda::Dtype::U32 => panic!("{} does not compute with u32", $name),
        }
    };
}
pub(super) use instance;

impl Arg {
    /// A number of things.
    pub fn count(number: usize) -> Self {
        Self::U32(count(number))
    }

    /// Where a slice is.
    pub fn slice(slice: &Slice) -> Self {
        Self::Memory(slice.pointer(), Arc::as_ptr(slice.gpu()))
    }

    /// Where a slice is, if there is one.
    pub fn optional(slice: Option<&Slice>) -> Self {
        slice.map_or(Self::Null, Self::slice)
    }
}

/// A number of things, as kernels and grids count.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).expect("fewer than 2³² of anything")
}

impl Gpu {
    /// Opens a GPU, the first is 0, and loads the kernels into it.
    pub fn open(ordinal: usize) -> Result<Arc<Self>, GpuError> {
        if !sources::built() {
            return Err(GpuError::NotBuilt);
        }
        // SAFETY: it only tries to open the library, which has no initialisers that could harm.
        if !unsafe { is_culib_present() } {
            return Err(GpuError::NoDriver);
        }
        let mut version = 0;
        // SAFETY: it writes one number, and needs nothing before.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
        if version < OLDEST_DRIVER {
            return Err(GpuError::OldDriver { version });
        }
        let count = match CudaContext::device_count() {
            Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
            count => count?.max(0) as usize,
        };
        if ordinal >= count {
            return Err(GpuError::NoDevice { ordinal, count });
        }
        let context = CudaContext::new(ordinal)?;
        let capability = context.compute_capability()?;
        if capability < OLDEST {
            return Err(GpuError::TooOld { name: context.name()?, capability });
        }
        let bytes = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let block_bytes = bytes.max(0) as u32;
        if block_bytes < MOST_SHARED {
            return Err(GpuError::LittleShared { name: context.name()?, bytes: block_bytes });
        }
        // SAFETY: no memory exists yet, and memory is used on the one stream of its GPU alone: launches check it.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        keep_memory(&context)?;
        let multiprocessors = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        let shared = [
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            CUdevice_attribute::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK,
        ];
        let shared = (context.attribute(shared[0])? as u32, context.attribute(shared[1])? as u32);
        let (modules, functions) = (Mutex::default(), Mutex::default());
        let is_hopper = OnceLock::new();
        let gpu = Self { context, stream, modules, functions, multiprocessors, shared, block_bytes, is_hopper };
        gpu.load_all()?;
        let _ = gpu.is_hopper.set(gpu.loads_hopper()?);
        Ok(Arc::new(gpu))
    }

    /// Loads the files of kernels that are not loaded yet: no launch then has to. [`Gpu::open`] does so.
    pub fn load_all(&self) -> Result<(), GpuError> {
        sources::ALL.iter().try_for_each(|source| self.module(source).map(drop))
    }

    /// Which it is: the first is 0.
    pub fn ordinal(&self) -> usize {
        self.context.ordinal()
    }

    /// Its name, as the driver tells it.
    pub fn name(&self) -> Result<String, GpuError> {
        Ok(self.context.name()?)
    }

    /// Bytes of memory: free now, and all.
    pub fn memory(&self) -> Result<(usize, usize), GpuError> {
        Ok(self.context.mem_get_info()?)
    }

    /// How many multiprocessors it has.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Bytes of shared memory that the blocks of a multiprocessor have together.
    pub(super) fn shared_bytes(&self) -> u32 {
        self.shared.0
    }

    /// Bytes of it that a block may ask for.
    pub(super) fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Whether kernels are those compiled for Hopper: others take less shared memory, as GPUs before have less.
    pub(super) fn is_hopper(&self) -> bool {
        self.is_hopper.get().copied().unwrap_or_default()
    }

    fn loads_hopper(&self) -> Result<bool, GpuError> {
        let function = self.function(&PRODUCT, "product_bf16_8_16", 0)?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION;
        let mut version = 0;
        // SAFETY: it writes one number; the function is there.
        unsafe { sys::cuFuncGetAttribute(&raw mut version, attribute, function.cu_function()) }.result()?;
        Ok(version >= 90)
    }

    /// Bytes of them that each block takes beside what it asks for.
    pub(super) fn reserved_bytes(&self) -> u32 {
        self.shared.1
    }

    /// Waits until everything launched so far is done.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        // It would break the graph.
        self.outside_graphs()?;
        Ok(self.stream.synchronize()?)
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The stream, for a call of the driver by this thread.
    pub(super) fn bound_stream(&self) -> Result<sys::CUstream, GpuError> {
        self.context.bind_to_thread()?;
        Ok(self.stream.cu_stream())
    }

    /// [`GpuError::Capturing`] if what is launched goes into a graph.
    pub(super) fn outside_graphs(&self) -> Result<(), GpuError> {
        match self.stream.capture_status()? {
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
            _ => Err(GpuError::Capturing),
        }
    }

    /// Launches the kernel `name` of `source`. Its first launch loads it, which may be while a graph is captured.
    ///
    /// # Panics
    /// If memory is another GPU's.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in order, and the memory it touches under them is there.
    pub(super) unsafe fn launch(
        &self,
        source: &Source,
        name: &'static str,
        grid: (u32, u32, u32),
        block: u32,
        shared_bytes: u32,
        args: &[Arg],
    ) -> Result<(), GpuError> {
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return Ok(());
        }
        self.context.bind_to_thread()?;
        let function = self.function(source, name, shared_bytes)?;
        // Each in a word of its own, of which kernels read what they ask for.
        let words = args.iter().map(|arg| match *arg {
            Arg::Null => 0,
            Arg::Memory(address, owner) => {
                assert!(std::ptr::eq(owner, self), "memory of another GPU");
                address
            }
            Arg::U32(number) => u64::from(number),
            Arg::F32(number) => u64::from(number.to_bits()),
        });
        let mut words: Vec<u64> = words.collect();
        let mut pointers: Vec<*mut c_void> = words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        // SAFETY: the caller vouches for the arguments, which live until the call is over.
        unsafe {
            sys::cuLaunchKernel(
                function.cu_function(),
                grid.0,
                grid.1,
                grid.2,
                block,
                1,
                1,
                shared_bytes,
                self.stream.cu_stream(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()?;
        Ok(())
    }

    fn function(&self, source: &Source, name: &'static str, shared_bytes: u32) -> Result<CudaFunction, GpuError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let (function, allowed) = match functions.get_mut(name) {
            Some(known) => known,
            None => {
                let module = self.module(source)?;
                let function = relaxed(|| {
                    let function = module.load_function(name)?;
                    // The driver may put it off to the first launch.
                    // SAFETY: the function is there.
                    unsafe { sys::cuFuncLoad(function.cu_function()) }.result()?;
                    Ok(function)
                })?;
                functions.entry(name).or_insert((function, 0))
            }
        };
        // Never less than before: another thread may be about to launch with that.
        if shared_bytes > *allowed {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            relaxed(|| Ok(function.set_attribute(most, shared_bytes as i32)?))?;
            *allowed = shared_bytes;
        }
        Ok(function.clone())
    }

    fn module(&self, source: &Source) -> Result<Arc<CudaModule>, GpuError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(source.name) {
            return Ok(module.clone());
        }
        let module = self.context.load_module(Ptx::from_binary(source.fatbin.to_vec()))?;
        modules.insert(source.name, module.clone());
        Ok(module)
    }
}

/// Has the driver keep memory that is freed: else it goes back to the system whenever somebody waits for the GPU, and taking it
/// again is slow.
fn keep_memory(context: &CudaContext) -> Result<(), DriverError> {
    use sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let mut pool = std::ptr::null_mut();
    let mut all = u64::MAX;
    // SAFETY: the device is there; the attribute is a u64.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()).result()?;
        sys::cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut all).cast()).result()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::cpu::Activation;
    use crate::cuda::checks::{gpu, poisoned};
    use crate::cuda::{Dtype, Matrix, activate};

    #[test]
    fn an_old_driver_is_named_by_its_version() {
        let error = GpuError::OldDriver { version: 12_080 };
        assert!(error.to_string().contains("CUDA 12.8;"), "{error}");
    }

    #[test]
    fn a_gpu_needs_kernels() {
        let missing = matches!(Gpu::open(99), Err(GpuError::NotBuilt));
        assert_eq!(missing, !sources::built());
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn there_is_no_hundredth_gpu() {
        let error = Gpu::open(99).err().expect("no GPU");
        assert!(matches!(error, GpuError::NoDevice { ordinal: 99, count: 1.. }), "{error}");
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn memory_is_used_on_its_own_gpu_alone() {
        let (here, there) = (gpu(), gpu());
        let x = poisoned(&here, Dtype::F32, 64);
        let launch = |gpu: &Gpu| activate(gpu, Matrix::new(&x, 64), Activation::Tanh);
        launch(&here).expect("a launch");
        assert!(catch_unwind(AssertUnwindSafe(|| launch(&there))).is_err());
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn more_numbers_than_can_be_counted_are_too_many() {
        for len in [usize::MAX, usize::MAX / 4 + 2] {
            let result = Slice::new(&gpu(), Dtype::F32, len).map(drop);
            assert!(matches!(result, Err(GpuError::OutOfMemory { .. })), "{result:?}");
        }
    }
}
