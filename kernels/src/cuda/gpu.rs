//! One GPU: its context, its stream, and the functions loaded into it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::is_culib_present;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::Slice;

/// The oldest architecture that the kernels are compiled for: Ampere.
const OLDEST: (i32, i32) = (8, 0);

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    #[error("the NVIDIA driver (libcuda.so.1) is not there")]
    NoDriver,
    #[error("there is no GPU {ordinal}: {count} can be seen")]
    NoDevice { ordinal: usize, count: usize },
    #[error("{name} has compute capability {0}.{1}; 8.0 (Ampere) or later is needed", .capability.0, .capability.1)]
    TooOld { name: String, capability: (i32, i32) },
    #[error("the NVIDIA driver is too old for these kernels ({0}): 580 or later is needed")]
    OldDriver(DriverError),
    #[error("the GPU's memory is full: {bytes} bytes were asked for")]
    OutOfMemory { bytes: usize },
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
    functions: Mutex<HashMap<&'static str, CudaFunction>>,
    multiprocessors: u32,
}

/// A file of kernels, compiled.
pub(super) struct Source {
    pub name: &'static str,
    pub fatbin: &'static [u8],
}

/// The compiled `cuda/NAME.cu`.
macro_rules! source {
    ($name:literal) => {
        $crate::cuda::gpu::Source {
            name: $name,
            fatbin: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".fatbin")),
        }
    };
}
pub(super) use source;

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Arg {
    Pointer(u64),
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
    /// No memory.
    pub const NULL: Self = Self::Pointer(0);

    /// A number of things.
    pub fn count(number: usize) -> Self {
        Self::U32(count(number))
    }

    /// Where a slice is.
    pub fn slice(slice: &Slice) -> Self {
        Self::Pointer(slice.pointer())
    }

    /// Where a slice is, if there is one.
    pub fn optional(slice: Option<&Slice>) -> Self {
        slice.map_or(Self::NULL, Self::slice)
    }
}

/// A number of things, as kernels and grids count.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).expect("fewer than 2³² of anything")
}

impl Gpu {
    /// Opens a GPU; the first is 0.
    pub fn open(ordinal: usize) -> Result<Arc<Self>, GpuError> {
        // SAFETY: it only tries to open the library, which has no initialisers that could harm.
        if !unsafe { is_culib_present() } {
            return Err(GpuError::NoDriver);
        }
        let count = CudaContext::device_count().unwrap_or(0).max(0) as usize;
        if ordinal >= count {
            return Err(GpuError::NoDevice { ordinal, count });
        }
        let context = CudaContext::new(ordinal)?;
        let capability = context.compute_capability()?;
        if capability < OLDEST {
            return Err(GpuError::TooOld { name: context.name()?, capability });
        }
        // SAFETY: no memory exists yet; all work goes to one stream, or is ordered by events of our own.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let count = cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = context.attribute(count)? as u32;
        Ok(Arc::new(Self { context, stream, modules: Mutex::default(), functions: Mutex::default(), multiprocessors }))
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

    /// Waits until everything launched so far is done.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        Ok(self.stream.synchronize()?)
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Launches the kernel `name` of `source`.
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
        let mut launch = self.stream.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::Pointer(pointer) => launch.arg(pointer),
                Arg::U32(number) => launch.arg(number),
                Arg::F32(number) => launch.arg(number),
            };
        }
        let config = LaunchConfig { grid_dim: grid, block_dim: (block, 1, 1), shared_mem_bytes: shared_bytes };
        // SAFETY: the caller vouches for it.
        unsafe { launch.launch(config) }?;
        Ok(())
    }

    fn function(&self, source: &Source, name: &'static str, shared_bytes: u32) -> Result<CudaFunction, GpuError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let function = match functions.get(name) {
            Some(function) => function.clone(),
            None => {
                let function = self.module(source)?.load_function(name)?;
                functions.insert(name, function.clone());
                function
            }
        };
        // More than this has to be asked for.
        if shared_bytes > 48 << 10 {
            use cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST;
            function.set_attribute(MOST, shared_bytes as i32)?;
        }
        Ok(function)
    }

    fn module(&self, source: &Source) -> Result<Arc<CudaModule>, GpuError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(source.name) {
            return Ok(module.clone());
        }
        let module = self.context.load_module(Ptx::from_binary(source.fatbin.to_vec())).map_err(|error| {
            use cudarc::driver::sys::CUresult::{CUDA_ERROR_NO_BINARY_FOR_GPU, CUDA_ERROR_UNSUPPORTED_PTX_VERSION};
            match error.0 {
                CUDA_ERROR_NO_BINARY_FOR_GPU | CUDA_ERROR_UNSUPPORTED_PTX_VERSION => GpuError::OldDriver(error),
                _ => error.into(),
            }
        })?;
        modules.insert(source.name, module.clone());
        Ok(module)
    }
}
