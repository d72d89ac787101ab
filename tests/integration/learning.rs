//! Gradients of adapters' parts, beside what small changes make of the loss: every kind on every family.

mod curves;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use repertoire::adapter::{Adapter, Metadata, SiteId, SiteMap};
use repertoire::model::load::Precision;
use repertoire::model::{BaseModel, Batch, Gradients, Learned, Output, Pass, RowSpec, Targets};
use serde_json::Value;

use crate::golden::bench::{Bench, fixtures, read};

/// A tensor of an adapter.
type Part = Box<dyn Fn(&mut Adapter) -> &mut Tensor>;

struct Case {
    model: Box<dyn BaseModel>,
    adapter: Adapter,
    rows: Vec<Vec<u32>>,
    targets: Targets,
    what: String,
}

impl Case {
    fn new(base: &str, name: &str, metadata: Metadata) -> Self {
        let model = Bench::model(base, Precision::As(DType::F32), None);
        let sites: Arc<SiteMap> = model.sites().clone();
        let mut adapter = read(&sites, base, name, metadata);
        tensors(&mut adapter).for_each(|tensor| *tensor = tensor.to_dtype(DType::F32).unwrap());
        let mut rng = StdRng::seed_from_u64(7);
        let leading = adapter.virtual_tokens.as_ref().map_or(0, |v| v.count());
        let rows: Vec<Vec<u32>> = [5usize, 1, 7]
            .iter()
            .map(|&len| {
                let own = (0..len).map(|_| rng.random_range(3..sites.vocab as u32));
                (0..leading).map(|i| (sites.vocab + i) as u32).chain(own).collect()
            })
            .collect();
        let targets = match &adapter.head {
            None => {
                let lines = (0..rows.iter().map(Vec::len).sum()).step_by(2);
                Targets::Tokens(lines.map(|line| (line, rng.random_range(0..sites.vocab as u32))).collect())
            }
            Some(head) => {
                let labels = head.labels.len().max(head.weight.dims()[0]);
                match name.contains("multi") || labels == 1 {
                    true => Targets::Labels {
                        of_rows: rows.iter().map(|_| (0..labels).map(|_| rng.random_bool(0.5)).collect()).collect(),
                        weights: Some((0..labels).map(|i| 1.0 + i as f32).collect()),
                    },
                    false => Targets::Label {
                        of_rows: rows.iter().map(|_| rng.random_range(0..labels)).collect(),
                        weights: Some((0..labels).map(|i| 1.0 + i as f32).collect()),
                    },
                }
            }
        };
        Self { model, adapter, rows, targets, what: format!("{base} {name}") }
    }

    /// An adapter of the fixtures, with the metadata that the golden file has for it.
    fn of(base: &str, name: &str) -> Self {
        let golden = std::fs::read(fixtures().join(format!("golden/{base}.json"))).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let entry = golden["entries"].as_array().unwrap().iter().find(|entry| entry["adapter"] == *name);
        let entry = entry.unwrap_or_else(|| panic!("{base} {name} is there"));
        Self::new(base, name, serde_json::from_value(entry["metadata"].clone()).unwrap())
    }

    fn learn(&mut self, adapter: Adapter, scale: Option<f32>, room: usize) -> Learned {
        let start = adapter.prefix_len();
        let adapter = Arc::new(adapter);
        let row = |tokens: &Vec<u32>| RowSpec {
            adapter: Some(adapter.clone()),
            tokens: tokens.clone(),
            start,
            blocks: vec![],
            output: Output::Nothing,
            draw: None,
            follows: None,
        };
        let (batch, _) = Batch::group(self.rows.iter().map(row).collect());
        let mut pass = Pass::new(batch, self.targets.clone(), scale, room);
        let mut pieces = 0;
        while !pass.is_done() {
            self.model.advance(&mut pass).unwrap();
            pieces += 1;
        }
        let layers = self.model.sites().layers;
        assert!(pieces >= layers + 2 && pieces <= 2 * layers + 3, "{pieces} pieces of {layers} layers");
        pass.learned()
    }

    fn loss_with(&mut self, part: &Part, change: impl Fn(&mut [f32])) -> f64 {
        let mut adapter = self.adapter.clone();
        let tensor = part(&mut adapter);
        let mut numbers: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        change(&mut numbers);
        *tensor = Tensor::from_vec(numbers, tensor.dims(), &Device::Cpu).unwrap();
        self.learn(adapter, None, 0).loss
    }

    /// The slope of the loss along a change of a part, by differences of fourth order. Of three steps that which comes nearest to
    /// `expected`: large ones are wrong where the loss bends, and small ones where f32 ends.
    fn slope(&mut self, part: &Part, along: &[f32], step: f32, expected: f64) -> f64 {
        let slopes = [step, step / 4.0, step / 16.0].map(|step| {
            let mut at = |by: f32| {
                self.loss_with(part, |numbers| numbers.iter_mut().zip(along).for_each(|(x, along)| *x += by * along))
            };
            (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * f64::from(step))
        });
        slopes.into_iter().min_by(|a, b| (a - expected).abs().total_cmp(&(b - expected).abs())).unwrap()
    }

    fn check(&mut self) {
        let Learned { loss, gradients } = self.learn(self.adapter.clone(), Some(1.0), 0);
        assert!(loss.is_finite() && loss > 0.0, "{}: {loss}", self.what);
        let kept = self.learn(self.adapter.clone(), Some(1.0), usize::MAX);
        assert_eq!(format!("{:?}", kept.gradients), format!("{gradients:?}"), "{}: computed twice or kept", self.what);
        let mut rng = StdRng::seed_from_u64(8);
        let parts = parts(&self.adapter, &gradients);
        assert!(!parts.is_empty(), "{}: nothing learns", self.what);
        for (name, part, gradient) in parts {
            let what = format!("{} {name}", self.what);
            let size = gradient.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            assert!(size > 1e-6, "{what}: no gradient");
            let along: Vec<f32> = gradient.iter().map(|x| (f64::from(*x) / size) as f32).collect();
            let slope = self.slope(&part, &along, (0.02 / size as f32).min(0.02), size);
            assert!((slope - size).abs() <= 0.02 * size + 2e-4, "{what}: {slope} along a gradient of {size}");
            let most = gradient.iter().fold(0f32, |most, x| most.max(x.abs()));
            for _ in 0..3 {
                let at = rng.random_range(0..gradient.len());
                let mut along = vec![0.0; gradient.len()];
                along[at] = 1.0;
                let found = f64::from(gradient[at]);
                let slope = self.slope(&part, &along, 0.02, found);
                assert!((slope - found).abs() <= 0.02 * f64::from(most) + 1e-3, "{what} {at}: {found}, slope {slope}");
            }
        }
    }
}

/// All numbers of the gradients.
fn numbers(gradients: &Gradients, adapter: &Adapter) -> Vec<f32> {
    parts(adapter, gradients).into_iter().flat_map(|(_, _, gradient)| gradient).collect()
}

/// All of an adapter's tensors that may learn.
fn tensors(adapter: &mut Adapter) -> impl Iterator<Item = &mut Tensor> {
    let patches = adapter.patches.iter_mut().flatten().flat_map(|patch| {
        let low_rank = patch.low_rank.iter_mut().flat_map(|low_rank| [&mut low_rank.a, &mut low_rank.b]);
        let rows = [&mut patch.weight, &mut patch.bias, &mut patch.output_scale, &mut patch.rescale_input];
        rows.into_iter().flatten().chain(patch.rescale_output.iter_mut()).chain(low_rank)
    });
    let virtual_tokens = adapter.virtual_tokens.iter_mut().map(|v| &mut v.embeddings);
    let prefix = adapter.prefix.iter_mut().flat_map(|prefix| prefix.keys.iter_mut().chain(&mut prefix.values));
    let head = adapter.head.iter_mut().flat_map(|head| std::iter::once(&mut head.weight).chain(&mut head.bias));
    patches.chain(virtual_tokens).chain(prefix).chain(head)
}

/// Those parts, each with its gradient; no part of an adapter may be without.
fn parts(adapter: &Adapter, gradients: &Gradients) -> Vec<(String, Part, Vec<f32>)> {
    let mut all: Vec<(String, Part, Vec<f32>)> = Vec::new();
    for (site, _) in adapter.patches.iter().enumerate().filter(|(_, patch)| patch.is_some()) {
        let own = gradients.patches.get(&SiteId(site)).cloned().unwrap_or_default();
        let patch = adapter.patch(SiteId(site)).unwrap();
        macro_rules! row {
            ($field:ident) => {
                if patch.$field.is_some() {
                    let gradient = own.$field.unwrap_or_else(|| panic!("site {site} {}", stringify!($field)));
                    let part: Part =
                        Box::new(move |adapter| adapter.patches[site].as_mut().unwrap().$field.as_mut().unwrap());
                    all.push((format!("site {site} {}", stringify!($field)), part, gradient));
                }
            };
        }
        row!(output_scale);
        row!(rescale_input);
        row!(rescale_output);
        row!(weight);
        row!(bias);
        if patch.low_rank.is_some() {
            let a: Part = Box::new(move |adapter| &mut low_rank(adapter, site).a);
            let b: Part = Box::new(move |adapter| &mut low_rank(adapter, site).b);
            all.push((format!("site {site} A"), a, own.a.unwrap()));
            all.push((format!("site {site} B"), b, own.b.unwrap()));
        }
    }
    if adapter.virtual_tokens.is_some() {
        let part: Part = Box::new(|adapter| &mut adapter.virtual_tokens.as_mut().unwrap().embeddings);
        all.push(("virtual tokens".into(), part, gradients.virtual_tokens.clone().unwrap()));
    }
    for layer in 0..adapter.prefix.as_ref().map_or(0, |prefix| prefix.keys.len()) {
        let keys: Part = Box::new(move |adapter| &mut adapter.prefix.as_mut().unwrap().keys[layer]);
        let values: Part = Box::new(move |adapter| &mut adapter.prefix.as_mut().unwrap().values[layer]);
        let [of_keys, of_values] = gradients.prefix[&layer].clone();
        all.push((format!("layer {layer} keys"), keys, of_keys));
        all.push((format!("layer {layer} values"), values, of_values));
    }
    if let Some(head) = &adapter.head {
        let own = gradients.head.clone().unwrap();
        all.push(("head".into(), Box::new(|adapter| &mut adapter.head.as_mut().unwrap().weight), own.weight));
        if head.bias.is_some() {
            let part: Part = Box::new(|adapter| adapter.head.as_mut().unwrap().bias.as_mut().unwrap());
            all.push(("head's bias".into(), part, own.bias));
        }
    }
    all
}

fn low_rank(adapter: &mut Adapter, site: usize) -> &mut repertoire::adapter::LowRank {
    adapter.patches[site].as_mut().unwrap().low_rank.as_mut().unwrap()
}

fn check(base: &str, names: &[&str]) {
    names.iter().for_each(|name| Case::of(base, name).check());
}

/// Many lines go through other products than few.
#[test]
fn rows_say_together_what_they_say_alone() {
    for (base, name) in [("llama", "dora-all-linear"), ("gpt2", "lora"), ("gpt2", "ia3"), ("bert", "lora-multi")] {
        let mut case = Case::of(base, name);
        let copies = 12;
        let one = case.learn(case.adapter.clone(), Some(1.0), 0);
        let lines: usize = case.rows.iter().map(Vec::len).sum();
        case.rows = vec![case.rows.clone(); copies].concat();
        case.targets = match &case.targets {
            Targets::Tokens(tokens) => {
                let copy = |copy: usize| tokens.iter().map(move |&(line, token)| (line + copy * lines, token));
                Targets::Tokens((0..copies).flat_map(copy).collect())
            }
            Targets::Label { of_rows, weights } => {
                Targets::Label { of_rows: of_rows.repeat(copies), weights: weights.clone() }
            }
            Targets::Labels { of_rows, weights } => {
                Targets::Labels { of_rows: vec![of_rows.clone(); copies].concat(), weights: weights.clone() }
            }
        };
        let all = case.learn(case.adapter.clone(), Some(1.0), 0);
        let expected = one.loss * copies as f64;
        assert!((all.loss - expected).abs() < 1e-5 * expected, "{}: {} and {expected}", case.what, all.loss);
        let (one, all) = (numbers(&one.gradients, &case.adapter), numbers(&all.gradients, &case.adapter));
        let most = one.iter().fold(0f32, |most, x| most.max(x.abs())) * copies as f32;
        for (one, all) in one.iter().zip(&all) {
            assert!((one * copies as f32 - all).abs() < 1e-4 * most, "{}: {one} and {all}", case.what);
        }
    }
}

#[test]
fn llamas_learn_what_differences_say() {
    check("llama", &["lora", "rslora", "dora-all-linear", "ia3", "prompt", "p-tuning", "prefix", "lora-lora-bias"]);
    check("llama", &["cls-lora", "cls-lora-one", "cls-dora", "cls-ia3", "cls-prefix", "cls-prompt"]);
    check("qwen3", &["lora", "dora-all-linear"]);
    check("mistral", &["lora"]);
}

#[test]
fn gpt2s_learn_what_differences_say() {
    check("gpt2", &["lora", "dora-all-linear", "ia3", "prompt", "prefix", "cls-lora", "cls-ia3", "save-lm-head"]);
}

#[test]
fn berts_learn_what_differences_say() {
    check("bert", &["lora", "lora-multi", "dora-all-linear", "ia3", "prompt", "prefix", "save-pooler"]);
}
