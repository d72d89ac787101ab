//! From a `[[bases]]` table to a running engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use parking_lot::Mutex;

use crate::adapter::{GenerationDefaults, Projection, SiteMap, TokenCounter};
use crate::config::{BaseConfig, DeviceMemory, DeviceName, DtypeName, SchedulerConfig};
use crate::engine::{Engine, EngineOptions};
use crate::http::{Base, BaseInfo};
use crate::hub::{self, HubOptions, ModelFiles};
use crate::model::BaseModel;
use crate::model::load::{GgufFile, Precision, WeightFiles, load_folder, load_gguf};
use crate::text::Tokenizer;

use super::generation_config;

/// Key-value memory on the CPU when `device_memory` is a share.
const CPU_KV_BYTES: usize = 1 << 30;

/// Loads a base and starts its engine. Engines on one device share `turn`.
pub fn load_base(config: &BaseConfig, scheduler: &SchedulerConfig, turn: &Arc<Mutex<()>>) -> Result<Base> {
    let started = Instant::now();
    let Loaded { model, tokenizer, generation } = load_model(config)?;
    let options = EngineOptions {
        max_batch_tokens: scheduler.max_batch_tokens,
        max_running: scheduler.max_running.min(scheduler.max_batch_tokens),
        max_waiting: scheduler.max_waiting,
        kv_bytes: match config.device_memory {
            DeviceMemory::Bytes(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
            DeviceMemory::Share(_) => CPU_KV_BYTES,
        },
        turn: turn.clone(),
    };
    let (parameters, bytes) = size(model.sites());
    let dtype = format!("{:?}", model.sites().embedding.weight.dtype()).to_ascii_lowercase();
    let mut info = BaseInfo::new(model.sites(), dtype, "cpu", parameters, bytes);
    // The source is an alias too, but where the operator keeps files is nobody's business.
    info.aliases = config.aliases.clone();
    let engine = Engine::start(model, Arc::new(tokenizer), options)?;
    tracing::info!(
        name = config.name, source = config.source, family = info.family, dtype = info.dtype, parameters, mebibytes = bytes >> 20,
        context = info.context, took = ?started.elapsed(), "base loaded"
    );
    Ok(Base { info, engine, generation })
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

/// Loads a base, and no more.
pub fn load_model(config: &BaseConfig) -> Result<Loaded> {
    if let DeviceName::Cuda(_) = config.device {
        bail!("base {}: device {} is not built in; set device = \"cpu\"", config.name, config.device);
    }
    load(config).with_context(|| format!("base {} ({})", config.name, config.source))
}

fn load(config: &BaseConfig) -> Result<Loaded> {
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
            let model = load_gguf(&config.name, aliases, file, precision)?;
            return Ok(Loaded { model, tokenizer, generation });
        }
    };
    let json = json.unwrap_or_else(|| folder.join("config.json"));
    let bytes = matches!(weights, WeightFiles::Dummy) && !folder.join("tokenizer.json").is_file();
    let tokenizer = if bytes { Tokenizer::bytes() } else { Tokenizer::from_folder(&folder)? };
    let model = load_folder(&config.name, aliases, &json, &weights, precision)?;
    Ok(Loaded { model, tokenizer, generation: generation_config::read(&folder) })
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
    let linears = linears.flat_map(|entry| std::iter::once(&entry.weight).chain(&entry.bias));
    let embeddings = std::iter::once(&sites.embedding).chain(&sites.positions).map(|site| &site.weight);
    let frozen = sites.frozen.iter().flat_map(|(_, parameters)| parameters.iter().map(|(_, tensor)| tensor));
    let count = |(parameters, bytes): (usize, usize), tensor: &Tensor| {
        (parameters + tensor.elem_count(), bytes + tensor.elem_count() * tensor.dtype().size_in_bytes())
    };
    linears.chain(embeddings).chain(frozen).fold((0, 0), count)
}
