//! From a `[[bases]]` table to a running engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::DType;
use parking_lot::Mutex;
use repertoire_kernels::cuda::{Gpu, GpuError};

use crate::adapter::{GenerationDefaults, Projection, SiteMap, TokenCounter};
use crate::config::{BaseConfig, DeviceMemory, DeviceName, DtypeName, SchedulerConfig};
use crate::device::GpuTarget;
use crate::engine::{Engine, EngineOptions};
use crate::http::{Base, BaseInfo};
use crate::hub::{self, HubOptions, ModelFiles};
use crate::model::BaseModel;
use crate::model::load::{GgufFile, Precision, WeightFiles, load_folder, load_gguf};
use crate::text::Tokenizer;

use super::generation_config;

/// Key-value memory on the CPU when `device_memory` is a share.
const CPU_KV_BYTES: usize = 1 << 30;

/// Loads a base and starts its engine. Engines on one device share `turn`; on a GPU, adapters take up to `adapter_bytes` bytes.
pub fn load_base(
    config: &BaseConfig,
    scheduler: &SchedulerConfig,
    adapter_bytes: usize,
    turn: &Arc<Mutex<()>>,
) -> Result<Base> {
    let started = Instant::now();
    let gpu = open_gpu(config)?;
    let target = gpu.clone().map(|gpu| GpuTarget { gpu, adapter_bytes });
    let Loaded { model, tokenizer, generation } = load_model(config, target)?;
    let options = EngineOptions {
        max_batch_tokens: scheduler.max_batch_tokens,
        max_running: scheduler.max_running.min(scheduler.max_batch_tokens),
        max_waiting: scheduler.max_waiting,
        kv_bytes: match &gpu {
            None => match config.device_memory {
                DeviceMemory::Bytes(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
                DeviceMemory::Share(_) => CPU_KV_BYTES,
            },
            Some(gpu) => {
                let step = model.step_bytes(scheduler.max_batch_tokens, scheduler.max_running);
                left_on(gpu, config.device_memory, step + adapter_bytes)
                    .with_context(|| format!("base {}", config.name))?
            }
        },
        turn: turn.clone(),
    };
    let (parameters, bytes) = size(model.sites());
    let dtype = format!("{:?}", model.sites().embedding.weight.dtype()).to_ascii_lowercase();
    let device = match (&gpu, config.device) {
        (None, _) => "cpu".into(),
        (Some(_), DeviceName::Cuda(ordinal)) => format!("cuda:{ordinal}"),
        (Some(_), _) => "cuda:0".into(),
    };
    let mut info = BaseInfo::new(model.sites(), dtype, device, parameters, bytes);
    // The source is an alias too, but where the operator keeps files is nobody's business.
    info.aliases = config.aliases.clone();
    let engine = Engine::start(model, Arc::new(tokenizer), options)?;
    tracing::info!(
        name = config.name, source = config.source, family = info.family, device = info.device, dtype = info.dtype, parameters, mebibytes = bytes >> 20,
        context = info.context, took = ?started.elapsed(), "base loaded"
    );
    Ok(Base { info, engine, generation })
}

/// The GPU that a base is to run on, if it is one.
fn open_gpu(config: &BaseConfig) -> Result<Option<Arc<Gpu>>> {
    let ordinal = match config.device {
        DeviceName::Cpu => return Ok(None),
        DeviceName::Cuda(ordinal) => ordinal,
        DeviceName::Auto => 0,
    };
    match Gpu::open(ordinal) {
        Ok(gpu) => Ok(Some(gpu)),
        Err(error) if config.device != DeviceName::Auto => Err(error).with_context(|| {
            format!("base {}: device {} (\"auto\" is the CPU where there is no GPU)", config.name, config.device)
        }),
        Err(GpuError::NotBuilt | GpuError::NoDriver | GpuError::NoDevice { .. }) => Ok(None),
        Err(error) => {
            tracing::warn!(base = config.name, %error, "there is a GPU that cannot be used; the base runs on the CPU");
            Ok(None)
        }
    }
}

/// Bytes that a GPU has left for keys and values, of what a base may use, once `others` are taken.
fn left_on(gpu: &Gpu, allowed: DeviceMemory, others: usize) -> Result<usize> {
    let (free, total) = gpu.memory()?;
    let allowed = match allowed {
        DeviceMemory::Bytes(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX).min(total),
        DeviceMemory::Share(share) => (total as f64 * share) as usize,
    };
    let taken = total - free;
    match allowed.checked_sub(taken + others) {
        Some(left) if left > 0 => Ok(left),
        _ => bail!(
            "the GPU has no memory left for keys and values: device_memory allows {} MiB, {} are taken, steps and adapters \
             need {} more; raise device_memory or lower scheduler.max_batch_tokens or adapters.device_bytes",
            allowed >> 20,
            taken >> 20,
            others >> 20
        ),
    }
}

/// The sites of a base as readers of adapters need them: with its tokenizer, which old prompts of ruprompts are counted by.
pub fn sites_with_tokenizer(sites: &SiteMap, tokenizer: Arc<Tokenizer>) -> Arc<SiteMap> {
    let count = move |text: &str| tokenizer.encode(text, true).ok().map(|ids| ids.len());
    let mut sites = sites.clone();
    sites.count_tokens = Some(TokenCounter(Arc::new(count)));
    Arc::new(sites)
}

/// A base before it has an engine.
pub struct Loaded {
    pub model: Box<dyn BaseModel>,
    pub tokenizer: Tokenizer,
    pub generation: GenerationDefaults,
}

/// Loads a base, and no more; onto a GPU if there is a target.
pub fn load_model(config: &BaseConfig, target: Option<GpuTarget>) -> Result<Loaded> {
    load(config, target).with_context(|| format!("base {} ({})", config.name, config.source))
}

fn load(config: &BaseConfig, target: Option<GpuTarget>) -> Result<Loaded> {
    let precision = match config.dtype {
        DtypeName::Auto => Precision::Stored,
        DtypeName::F32 => Precision::As(DType::F32),
        DtypeName::F16 => Precision::As(DType::F16),
        DtypeName::Bf16 => Precision::As(DType::BF16),
    };
    let mut aliases = config.aliases.clone();
    aliases.push(config.source.clone());
    let mut report = Report::new();
    let files = hub::resolve(&config.source, &HubOptions::from_env(), &mut |progress| report.tell(progress))?;
    let ModelFiles { folder, config: json, weights } = files;
    let weights = match weights {
        hub::Weights::Safetensors(shards) => WeightFiles::Safetensors(shards),
        hub::Weights::Pickle(file) => WeightFiles::Pickle(file),
        hub::Weights::Dummy => WeightFiles::Dummy,
        hub::Weights::Gguf(file) => {
            let file = GgufFile::open(&file)?;
            let tokenizer = Tokenizer::from_gguf(&file.content.metadata)?;
            let generation = generation_config::ending_with(file.ends_of_text());
            let model = load_gguf(&config.name, aliases, file, precision, target)?;
            return Ok(Loaded { model, tokenizer, generation });
        }
    };
    let json = json.unwrap_or_else(|| folder.join("config.json"));
    let bytes = matches!(weights, WeightFiles::Dummy) && !folder.join("tokenizer.json").is_file();
    let tokenizer = || if bytes { Ok(Tokenizer::bytes()) } else { Tokenizer::from_folder(&folder) };
    // That of a large vocabulary takes a while.
    std::thread::scope(|scope| {
        let tokenizer = scope.spawn(tokenizer);
        let model = load_folder(&config.name, aliases, &json, &weights, precision, target);
        let tokenizer = tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Loaded { model: model?, tokenizer, generation: generation_config::read(&folder) })
    })
}

/// Tells the log of a download, now and then.
struct Report {
    next: Instant,
}

impl Report {
    const PAUSE: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Self { next: Instant::now() + Self::PAUSE }
    }

    fn tell(&mut self, progress: hub::Progress<'_>) {
        if Instant::now() >= self.next {
            self.next = Instant::now() + Self::PAUSE;
            let (done, total) = (progress.done >> 20, progress.total >> 20);
            tracing::info!(file = progress.file, "downloading: {done} of {total} MiB");
        }
    }
}

/// Numbers and bytes of a base's weights.
fn size(sites: &SiteMap) -> (usize, usize) {
    let shared = |projection: Projection| sites.tied && projection == Projection::LmHead;
    let linears = sites.linears.iter().filter(|entry| !shared(entry.site.projection));
    let embeddings = std::iter::once(&sites.embedding).chain(&sites.positions).map(|site| &site.weight);
    let weights = linears.clone().map(|entry| &entry.weight).chain(embeddings);
    let weights = weights.map(|weight| (weight.elem_count(), weight.dtype()));
    let frozen = sites.frozen.iter().flat_map(|(_, parameters)| parameters.iter().map(|(_, tensor)| tensor));
    let others = linears.filter_map(|entry| entry.bias.as_ref()).chain(frozen);
    let others = others.map(|tensor| (tensor.elem_count(), tensor.dtype()));
    weights
        .chain(others)
        .fold((0, 0), |(parameters, bytes), (count, dtype)| (parameters + count, bytes + count * dtype.size_in_bytes()))
}
