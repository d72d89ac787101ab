//! What every step on a GPU uses: the GPU, its libraries, memory for matrices, the store of keys and values.

use std::sync::Arc;

use repertoire_kernels::cuda::{
    Dtype, FEW_LINES, GatedProduct, Gemm, Gpu, GpuError, KvStore, Product, ProductScratch, gated_product, product,
    product_scratch_len,
};

use crate::adapter::SiteMap;
use crate::device::Placement;

use super::arena::Arena;
use super::groups::groups;

/// A GPU at work for one base.
pub struct Machine {
    pub gpu: Arc<Gpu>,
    /// What activations, keys and values are.
    pub dtype: Dtype,
    pub arena: Arena,
    /// Absent for encoders, and until it is opened.
    pub store: Option<KvStore>,
    gemm: Gemm,
    scratch: ProductScratch,
}

impl Machine {
    /// A machine for a base of these sites.
    pub fn new(placement: &Placement, sites: &SiteMap) -> Result<Self, GpuError> {
        let (gpu, dtype) = (&placement.target.gpu, placement.dtype);
        let widths = groups(sites).into_iter().flat_map(|group| {
            let inputs = sites.linears[group.start].inputs();
            let each = group.clone().map(|site| sites.linears[site].outputs());
            let all = each.clone().sum();
            each.chain([all]).map(move |outputs| (inputs, outputs)).collect::<Vec<_>>()
        });
        let scratch = widths.map(|(inputs, outputs)| product_scratch_len(gpu, FEW_LINES, inputs, outputs)).max();
        Ok(Self {
            gpu: gpu.clone(),
            dtype,
            arena: Arena::new(gpu),
            store: None,
            gemm: Gemm::new(gpu)?,
            scratch: ProductScratch::new(gpu, scratch.unwrap_or(0))?,
        })
    }

    /// Computes a gated product.
    pub fn gated(&self, call: &GatedProduct<'_>) -> Result<(), GpuError> {
        gated_product(&self.gpu, call, &self.scratch)
    }

    /// Computes a product, by the kernel that suits its lines.
    pub fn product(&self, call: &Product<'_>) -> Result<(), GpuError> {
        match call.lines <= FEW_LINES {
            true => product(&self.gpu, call, &self.scratch),
            false => self.gemm.product(call),
        }
    }
}
