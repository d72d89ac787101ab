//! Builds a body part by part and notes its sites on the way.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use repertoire_kernels::cuda::Dtype;

use crate::adapter::{EmbeddingSite, Projection, Site, SiteEntry, SiteId, SiteMap};
use crate::device::{Placement, Weight};
use crate::model::layers::{Linear, Norm};

use super::{LoadError, ModelConfig, Weights};

/// Reads the weights of a base under the names of its task model (`model.layers.0...`), and of its bare backbone (`layers.0...`).
pub struct Builder<'a> {
    base: String,
    aliases: Vec<String>,
    config: &'a ModelConfig,
    weights: Weights,
    placement: Option<Placement>,
    linears: Vec<SiteEntry>,
    frozen: Vec<(String, Vec<(String, Tensor)>)>,
}

/// What differs between families in how adapters see them.
pub struct Naming {
    /// `model`, `transformer`, `bert`.
    pub backbone: &'static str,
    /// `score`, `classifier`.
    pub head: &'static str,
    /// The token embedding's module.
    pub embedding: &'static str,
    pub causal: bool,
    pub missing_pooler: bool,
}

impl<'a> Builder<'a> {
    /// Starts with nothing read. Weights are brought to `placement` too, where there is one.
    pub fn new(
        base: &str,
        aliases: Vec<String>,
        config: &'a ModelConfig,
        weights: Weights,
        placement: Option<Placement>,
    ) -> Self {
        Self { base: base.into(), aliases, config, weights, placement, linears: vec![], frozen: vec![] }
    }

    /// Brings a tensor to where the base runs.
    pub fn place(&self, host: Tensor) -> Result<Weight, LoadError> {
        let [weight] = Weight::place([host], self.placement.as_ref())?;
        Ok(weight)
    }

    /// A weight that must be there, where the base runs.
    pub fn weight(&self, name: &str, shape: &[usize]) -> Result<Weight, LoadError> {
        let [weight] = self.weights([(name.into(), shape.into())])?;
        Ok(weight)
    }

    /// Weights of (name, shape) that must be there, where the base runs: on a GPU one after the other, and straight from the
    /// file, without a copy on the host.
    fn weights<const N: usize>(&self, wanted: [(String, Vec<usize>); N]) -> Result<[Weight; N], LoadError> {
        let missing = |name: &str| LoadError::Unsupported(format!("the weight {name} is missing"));
        let Some(placement) = &self.placement else {
            let all = wanted.iter().map(|(name, shape)| Ok(Weight::from(self.get(name, shape)?)));
            return sized(all.collect::<Result<_, LoadError>>()?);
        };
        let cargos = wanted.iter().map(|(name, shape)| {
            let cargo = under_any_name(name, |name| self.weights.cargo(name, shape))?;
            cargo.ok_or_else(|| missing(name))
        });
        Ok(placement.place(sized::<N, _>(cargos.collect::<Result<_, LoadError>>()?)?)?)
    }

    /// Numbers that stay f32 wherever the base runs.
    pub fn place_f32(&self, numbers: &[f32]) -> Result<Weight, LoadError> {
        let host = Tensor::new(numbers, &Device::Cpu)?;
        let placement = self.placement.as_ref().map(|placement| placement.with_dtype(Dtype::F32));
        let [weight] = Weight::place([host], placement.as_ref())?;
        Ok(weight)
    }

    /// A parameter by the task model's name, on the host.
    pub fn find(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>, LoadError> {
        under_any_name(name, |name| self.weights.find(name, shape))
    }

    /// A parameter that must be there, on the host.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.find(name, shape)?.ok_or_else(|| LoadError::Unsupported(format!("the weight {name} is missing")))
    }

    /// A linear layer [outputs, inputs] at a site. A Conv1D is turned round; a bias is optional.
    pub fn linear(
        &mut self,
        site: Site,
        module: &str,
        inputs: usize,
        outputs: usize,
        conv1d: bool,
    ) -> Result<Linear, LoadError> {
        let [linear] = self.linear_group(inputs, [(site, module, outputs)], conv1d)?;
        Ok(linear)
    }

    /// Linear layers of (site, module, outputs) that read the same `inputs`: on a GPU they lie one after the other, so that one
    /// product computes them.
    pub fn linear_group<const N: usize>(
        &mut self,
        inputs: usize,
        parts: [(Site, &str, usize); N],
        conv1d: bool,
    ) -> Result<[Linear; N], LoadError> {
        let name = |module: &str| format!("{module}.weight");
        let weights = match conv1d {
            true => {
                let turned = |&(_, module, outputs): &(Site, &str, usize)| {
                    Ok(self.get(&name(module), &[inputs, outputs])?.t()?.contiguous()?)
                };
                let turned = parts.iter().map(turned).collect::<Result<_, LoadError>>()?;
                Weight::place(sized::<N, _>(turned)?, self.placement.as_ref())?
            }
            false => self.weights(parts.map(|(_, module, outputs)| (name(module), vec![outputs, inputs])))?,
        };
        self.sites(parts, weights, conv1d)
    }

    /// A linear layer whose weight was read before (a tied head).
    pub fn site(
        &mut self,
        site: Site,
        module: &str,
        weight: Weight,
        conv1d: bool,
        outputs: usize,
    ) -> Result<Linear, LoadError> {
        let [linear] = self.sites([(site, module, outputs)], [weight], conv1d)?;
        Ok(linear)
    }

    fn sites<const N: usize>(
        &mut self,
        parts: [(Site, &str, usize); N],
        weights: [Weight; N],
        conv1d: bool,
    ) -> Result<[Linear; N], LoadError> {
        let biases = parts.iter().map(|&(site, module, outputs)| {
            if !self.optional_bias(site) {
                return Ok(None);
            }
            let bias = self.find(&format!("{module}.bias"), &[outputs])?;
            Ok(bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?)
        });
        let biases = biases.collect::<Result<Vec<_>, LoadError>>()?;
        let placed: [Option<Weight>; N] = match biases.iter().cloned().collect::<Option<Vec<_>>>() {
            Some(all) => Weight::place(sized::<N, _>(all)?, self.placement.as_ref())?.map(Some),
            None => {
                let each = biases.iter().cloned().map(|bias| bias.map(|bias| self.place(bias)).transpose());
                sized::<N, _>(each.collect::<Result<Vec<_>, LoadError>>()?)?
            }
        };
        let linears = parts.into_iter().zip(weights).zip(biases.into_iter().zip(placed));
        let linears = linears.map(|(((site, module, _), weight), (on_host, bias))| {
            let id = SiteId(self.linears.len());
            let seen = weight.clone();
            self.linears.push(SiteEntry { site, module: module.into(), conv1d, weight: seen, bias: on_host });
            Linear { site: id, weight, bias }
        });
        sized(linears.collect())
    }

    /// A decoder's output head, which may share the embedding's matrix.
    pub fn decoder_head(&mut self, embedding: &Weight) -> Result<Linear, LoadError> {
        let (vocab, hidden) = (self.config.vocab, self.config.hidden);
        let weight = match self.config.tied {
            true => embedding.clone(),
            false => self.weight("lm_head.weight", &[vocab, hidden])?,
        };
        self.site(Site { layer: None, projection: Projection::LmHead }, "lm_head", weight, false, vocab)
    }

    /// Dummy weights answer to every name, so families say where a bias is.
    fn optional_bias(&self, site: Site) -> bool {
        match self.config.family.as_str() {
            "gpt2" | "bert" => site.projection != Projection::LmHead,
            "qwen2" => matches!(site.projection, Projection::Query | Projection::Key | Projection::Value),
            _ => !self.weights.is_dummy(),
        }
    }

    /// An RMS norm of width `width`.
    pub fn rms_norm(&mut self, module: &str, width: usize) -> Result<Norm, LoadError> {
        let weight = self.get(&format!("{module}.weight"), &[width])?.to_dtype(DType::F32)?;
        self.freeze(module, vec![("weight".into(), weight.clone())]);
        Ok(Norm::Rms { weight: self.place(weight)?, eps: self.config.norm_eps })
    }

    /// A layer norm of width `width`.
    pub fn layer_norm(&mut self, module: &str, width: usize) -> Result<Norm, LoadError> {
        let weight = self.get(&format!("{module}.weight"), &[width])?.to_dtype(DType::F32)?;
        let bias = self.get(&format!("{module}.bias"), &[width])?.to_dtype(DType::F32)?;
        self.freeze(module, vec![("weight".into(), weight.clone()), ("bias".into(), bias.clone())]);
        let (weight, bias) = (self.place(weight)?, self.place(bias)?);
        Ok(Norm::Layer { weight, bias, eps: self.config.norm_eps })
    }

    /// Notes a module that adapters cannot change.
    pub fn freeze(&mut self, module: &str, parameters: Vec<(String, Tensor)>) {
        self.frozen.push((module.into(), parameters));
    }

    /// The map of all sites seen. `positions` are learned positions, with their module's name.
    pub fn finish(self, naming: Naming, embedding: Weight, positions: Option<EmbeddingSite>) -> Arc<SiteMap> {
        let config = self.config;
        Arc::new(SiteMap {
            base: self.base,
            aliases: self.aliases,
            family: config.family.clone(),
            backbone: naming.backbone.into(),
            linears: self.linears,
            embedding: EmbeddingSite { module: naming.embedding.into(), weight: embedding },
            positions,
            frozen: self.frozen,
            tied: config.tied,
            causal: naming.causal,
            layers: config.layers,
            hidden: config.hidden,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocab: config.vocab,
            context: config.context,
            pad: config.pad,
            head: naming.head.into(),
            missing_pooler: naming.missing_pooler,
            count_tokens: None,
        })
    }
}

/// What `find` finds under the task model's name of a parameter, or without the backbone's prefix; also under old names.
fn under_any_name<T>(name: &str, find: impl Fn(&str) -> Result<Option<T>, LoadError>) -> Result<Option<T>, LoadError> {
    // Old BERT files call a norm's weight gamma and its bias beta.
    let old = name.strip_suffix("LayerNorm.weight").map(|stem| format!("{stem}LayerNorm.gamma"));
    let old = old.or_else(|| name.strip_suffix("LayerNorm.bias").map(|stem| format!("{stem}LayerNorm.beta")));
    for name in std::iter::once(name).chain(old.as_deref()) {
        let bare = ["model.", "transformer.", "bert."].iter().find_map(|prefix| name.strip_prefix(prefix));
        for name in std::iter::once(name).chain(bare) {
            if let Some(found) = find(name)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn sized<const N: usize, T>(all: Vec<T>) -> Result<[T; N], LoadError> {
    all.try_into().map_err(|_| LoadError::Unsupported("a group has as many weights as parts".into()))
}
