//! What every step on a GPU uses: the GPU, its libraries, memory for matrices, the store of keys and values.

use std::sync::Arc;

use repertoire_kernels::cuda::{
    Dtype, FEW_LINES, GatedProduct, Gemm, Gpu, GpuError, KvStore, Product, ProductScratch, Rms, Sites, Slice,
    adapted_gated_product, adapted_product, gated_product, normed_gated_product, normed_product, product,
    product_scratch_len,
};

use crate::adapter::SiteMap;
use crate::device::Placement;

use super::ahead::Ahead;
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
    /// What products bring nearer for those after them.
    pub ahead: Ahead,
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
            ahead: Ahead::default(),
            gemm: Gemm::new(gpu)?,
            scratch: ProductScratch::new(gpu, scratch.unwrap_or(0))?,
        })
    }

    /// Computes a gated product, with adapters where there are any, whose lines may be shrunk already.
    pub fn gated(&self, call: &GatedProduct<'_>, patches: Option<&Sites<'_>>, shrunk: bool) -> Result<(), GpuError> {
        let ahead = self.ahead.after(call.weight);
        let call = GatedProduct { ahead: ahead.as_ref(), ..call.clone() };
        match patches {
            None => gated_product(&self.gpu, &call, &self.scratch),
            Some(patches) => adapted_gated_product(&self.gpu, &call, patches, shrunk, &self.scratch),
        }
    }

    /// Computes a product, by the kernel that suits its lines.
    pub fn product(&self, call: &Product<'_>) -> Result<(), GpuError> {
        if call.lines > FEW_LINES {
            return self.gemm.product(call);
        }
        let ahead = self.ahead.after(call.weight);
        product(&self.gpu, &Product { ahead: ahead.as_ref(), ..call.clone() }, &self.scratch)
    }

    /// Whether a bias that is added to a sum takes a launch after the product's.
    pub fn leaves_biases(&self, lines: usize) -> bool {
        lines > FEW_LINES && self.dtype != Dtype::F32
    }

    /// Computes a product of lines that are normalised first.
    pub fn normed(&self, norm: Rms<'_>, call: &Product<'_>) -> Result<(), GpuError> {
        let ahead = self.ahead.after(call.weight);
        normed_product(&self.gpu, norm, &Product { ahead: ahead.as_ref(), ..call.clone() }, &self.scratch)
    }

    /// The same of a gated product.
    pub fn normed_gated(&self, norm: Rms<'_>, call: &GatedProduct<'_>) -> Result<(), GpuError> {
        let ahead = self.ahead.after(call.weight);
        normed_gated_product(&self.gpu, norm, &GatedProduct { ahead: ahead.as_ref(), ..call.clone() }, &self.scratch)
    }

    /// Computes a product of few lines with adapters, to whom lines are `x` unless they are shrunk already.
    pub fn adapted(&self, call: &Product<'_>, patches: &Sites<'_>, x: Option<&Slice>) -> Result<(), GpuError> {
        let ahead = self.ahead.after(call.weight);
        let call = Product { ahead: ahead.as_ref(), ..call.clone() };
        adapted_product(&self.gpu, &call, patches, x, &self.scratch)
    }
}
