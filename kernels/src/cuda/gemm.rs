//! `y = x·Wᵀ + bias` for many lines, by cuBLASLt, which is loaded when it is first asked for.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{self, is_culib_present};

use super::{Dtype, Gpu, GpuError, Matrix, Product, Slice, Store, add_row};

/// The oldest version, as it counts: that of CUDA 13.0.
const OLDEST: usize = 130_000;

/// Algorithms that are remembered: more than a server needs, which sees prompts of all lengths.
const MOST_CHOSEN: usize = 1 << 12;

/// Bytes that cuBLASLt may use besides.
const WORKSPACE: usize = 32 << 20;

/// cuBLASLt on one GPU.
pub struct Gemm {
    gpu: Arc<Gpu>,
    handle: sys::cublasLtHandle_t,
    workspace: Slice,
    /// The algorithms chosen so far.
    chosen: Mutex<HashMap<Shape, sys::cublasLtMatmulAlgo_t>>,
}

// SAFETY: cuBLASLt's handle may be used by several threads at once.
unsafe impl Send for Gemm {}
// SAFETY: as above.
unsafe impl Sync for Gemm {}

/// What decides about an algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    lines: usize,
    inputs: usize,
    outputs: usize,
    pitch: usize,
    dtype: Dtype,
    y: Dtype,
    adds: bool,
    /// Whether the library adds the bias.
    bias: bool,
    /// Bytes to which all matrices are aligned.
    alignment: u32,
}

impl Gemm {
    /// Loads the library.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, GpuError> {
        // SAFETY: it only tries to open the library, which has no initialisers that could harm.
        if !unsafe { is_culib_present() } {
            return Err(GpuError::NoCublas);
        }
        // SAFETY: it needs nothing before.
        if unsafe { sys::cublasLtGetVersion() } < OLDEST {
            return Err(GpuError::NoCublas);
        }
        // The handle is of the thread's current GPU.
        gpu.stream().context().bind_to_thread()?;
        let workspace = Slice::new(gpu, Dtype::U32, WORKSPACE / 4)?;
        let handle = result::create_handle()?;
        Ok(Self { gpu: gpu.clone(), handle, workspace, chosen: Mutex::default() })
    }

    /// Computes a product of any number of lines. A line's numbers may depend on how many there are, as the library likes.
    ///
    /// # Panics
    /// If a shape or a dtype does not fit.
    pub fn product(&self, product: &Product<'_>) -> Result<(), GpuError> {
        product.check();
        let Product { lines, inputs, outputs, pitch, .. } = *product;
        if lines == 0 || outputs == 0 {
            return Ok(());
        }
        let dtype = product.x.dtype();
        let y = product.y.dtype();
        let adds = product.store == Store::Add;
        let all = [product.x, product.weight, product.y].into_iter().all(Slice::aligned);
        let alignment = if all { 16 } else { dtype.bytes() as u32 };
        let own = product.bias.filter(|bias| all && takes_bias(product, bias));
        self.multiply(
            product,
            own,
            Shape { lines, inputs, outputs, pitch, dtype, y, adds, bias: own.is_some(), alignment },
        )?;
        let Some(bias) = product.bias.filter(|_| own.is_none()) else { return Ok(()) };
        add_row(&self.gpu, Matrix::strided(product.y, lines, pitch, outputs), bias)
    }

    fn multiply(&self, product: &Product<'_>, bias: Option<&Slice>, shape: Shape) -> Result<(), GpuError> {
        // Row by row is column by column of the transposed: y' [outputs, lines] = (w' [inputs, outputs])ᵀ · x' [inputs, lines].
        let w = Layout::new(shape.dtype, shape.inputs, shape.outputs, shape.inputs)?;
        let x = Layout::new(shape.dtype, shape.inputs, shape.lines, shape.inputs)?;
        let y = Layout::new(shape.y, shape.outputs, shape.lines, shape.pitch)?;
        let operation = Operation::new(bias.map(|bias| bias.pointer_for(&self.workspace)))?;
        self.gpu.stream().context().bind_to_thread()?;
        let algorithm = self.algorithm(shape, &operation, [&w, &x, &y])?;
        let one = 1.0f32;
        let beta = if shape.adds { 1.0f32 } else { 0.0 };
        let pointer = |slice: &Slice| slice.pointer_for(&self.workspace) as *mut c_void;
        // SAFETY: shapes were checked against the memory; layouts live until the call is over, memory as long as its slices,
        // and freeing it waits for the stream.
        unsafe {
            result::matmul(
                self.handle,
                operation.0,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                pointer(product.weight),
                w.0,
                pointer(product.x),
                x.0,
                pointer(product.y),
                y.0,
                pointer(product.y),
                y.0,
                &raw const algorithm,
                pointer(&self.workspace),
                WORKSPACE,
                self.gpu.stream().cu_stream().cast(),
            )
        }?;
        Ok(())
    }

    /// The algorithm for a shape: asking takes longer than a small product.
    fn algorithm(
        &self,
        shape: Shape,
        operation: &Operation,
        [w, x, y]: [&Layout; 3],
    ) -> Result<sys::cublasLtMatmulAlgo_t, GpuError> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&algorithm) = chosen.get(&shape) {
            return Ok(algorithm);
        }
        let preference = Preference::new(shape.alignment)?;
        // SAFETY: everything lives until the call is over.
        let found =
            unsafe { result::get_matmul_algo_heuristic(self.handle, operation.0, w.0, x.0, y.0, y.0, preference.0) }?;
        if chosen.len() >= MOST_CHOSEN {
            chosen.clear();
        }
        chosen.insert(shape, found.algo);
        Ok(found.algo)
    }
}

impl Drop for Gemm {
    fn drop(&mut self) {
        // SAFETY: the handle is not used any more. If it cannot be destroyed, nothing better can be done than to leave it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// Whether the library adds a bias to the sums itself: one of y's dtype, where every line begins at a multiple of 16 bytes.
fn takes_bias(product: &Product<'_>, bias: &Slice) -> bool {
    let dtype = product.y.dtype();
    let lines = [product.outputs, product.pitch].iter().all(|n| (n * dtype.bytes()).is_multiple_of(16));
    bias.dtype() == dtype && bias.aligned() && lines
}

/// How a matrix lies in memory.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(dtype: Dtype, rows: usize, columns: usize, pitch: usize) -> Result<Self, CublasError> {
        let dtype = match dtype {
            Dtype::F16 => sys::cudaDataType_t::CUDA_R_16F,
            Dtype::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
            Dtype::F32 | Dtype::U32 => sys::cudaDataType_t::CUDA_R_32F,
        };
        result::create_matrix_layout(dtype, rows as u64, columns as u64, pitch as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// A product, summed in f32.
struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    /// One of the transposed first matrix; adds a bias to the sums, given where it is.
    fn new(bias: Option<u64>) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let operation = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F).map(Self)?;
        let set = |attribute, at: *const c_void, bytes| {
            // SAFETY: each attribute is of as many bytes.
            unsafe { result::set_matmul_desc_attribute(operation.0, attribute, at, bytes) }
        };
        let transposed: i32 = 1;
        set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, (&raw const transposed).cast(), 4)?;
        if let Some(bias) = bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, (&raw const epilogue).cast(), 4)?;
            set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, (&raw const bias).cast(), 8)?;
        }
        Ok(operation)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// What an algorithm may use.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new(alignment: u32) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Self(result::create_matmul_pref()?);
        let most = WORKSPACE;
        let alignments = [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        // SAFETY: the workspace is a u64, alignments are u32.
        unsafe {
            let bytes = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            result::set_matmul_pref_attribute(preference.0, bytes, (&raw const most).cast(), 8)?;
            for attribute in alignments {
                result::set_matmul_pref_attribute(preference.0, attribute, (&raw const alignment).cast(), 4)?;
            }
        }
        Ok(preference)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::cuda::checks::{DTYPES, assert_within, gpu, pick, poisoned, random, tolerance_of_sums};

    #[test]
    #[ignore = "needs a GPU and cuBLASLt"]
    fn products_of_many_lines_are_right() {
        let gpu = gpu();
        let gemm = Gemm::new(&gpu).expect("cuBLASLt");
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..60 {
            let lines = pick(&mut rng, &[1, 65, 100, 128, 200]);
            let inputs = pick(&mut rng, &[8, 72, 576, 1024]);
            let outputs = pick(&mut rng, &[1, 7, 64, 100, 333, 576]);
            let dtype = pick(&mut rng, &DTYPES);
            let store = pick(&mut rng, &[Store::Write, Store::Add]);
            let own = if store == Store::Add { Dtype::F32 } else { pick(&mut rng, &[dtype, Dtype::F32]) };
            let x = random(&gpu, &mut rng, dtype, lines * inputs, 1.0);
            let weight = random(&gpu, &mut rng, dtype, outputs * inputs, 1.0);
            let bias = rng.random_bool(0.5).then(|| random(&gpu, &mut rng, dtype, outputs, 4.0));
            let before = random(&gpu, &mut rng, own, lines * outputs, 4.0);
            let y = if store == Store::Add { before.slice.clone() } else { poisoned(&gpu, own, lines * outputs) };
            let bias_slice = bias.as_ref().map(|bias| &bias.slice);
            let (x_slice, weight_slice) = (&x.slice, &weight.slice);
            let call = Product {
                x: x_slice,
                weight: weight_slice,
                bias: bias_slice,
                y: &y,
                pitch: outputs,
                store,
                lines,
                inputs,
                outputs,
                ahead: None,
            };
            gemm.product(&call).expect("a product");
            let mut expected = Vec::new();
            for line in 0..lines {
                for column in 0..outputs {
                    let x = &x.values[line * inputs..(line + 1) * inputs];
                    let w = &weight.values[column * inputs..(column + 1) * inputs];
                    let old = if store == Store::Add { before.values[line * outputs + column] } else { 0.0 };
                    let bias = bias.as_ref().map_or(0.0, |bias| bias.values[column]);
                    expected.push(x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + bias + old);
                }
            }
            let what = format!("{dtype:?} {lines} x {inputs} -> {outputs} as {own:?}, {store:?}");
            assert_within(&y.to_f32().expect("numbers"), &expected, tolerance_of_sums(dtype, own), &what);
        }
    }
}
