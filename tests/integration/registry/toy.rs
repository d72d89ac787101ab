//! A store in a temporary folder, and packages that a toy reader understands.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use repertoire::adapter::{
    Adapter, AdapterError, AdapterName, AdapterRef, AdapterRegistry, Digest, GenerationDefaults, Kind, Lease, Metadata,
    OnDevice, Package, ReadLimits, Reader, RegistryOptions, TaskKind, VirtualTokens,
};

/// A temporary store and how registries over it are opened.
pub struct Toy {
    pub folder: Folder,
    pub host_bytes: u64,
    pub keep_versions: usize,
    /// How often a package was read.
    pub reads: Arc<AtomicUsize>,
    /// Called at every reading.
    pub hook: Arc<dyn Fn(&Package) + Send + Sync>,
}

/// Removed at the end, unless it is another process's.
pub enum Folder {
    Own(tempfile::TempDir),
    Other(PathBuf),
}

impl Toy {
    pub fn new() -> Self {
        Self::over(Folder::Own(tempfile::tempdir().unwrap()))
    }

    /// Over a store that somebody else made.
    pub fn at(folder: PathBuf) -> Self {
        Self::over(Folder::Other(folder))
    }

    /// In memory where there is such a folder: forcing to disk costs nothing there.
    pub fn in_memory() -> Self {
        let shm = Path::new("/dev/shm");
        Self::over(Folder::Own(if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap()))
    }

    fn over(folder: Folder) -> Self {
        Self { folder, host_bytes: 1 << 20, keep_versions: 10, reads: Arc::default(), hook: Arc::new(|_| ()) }
    }

    pub fn path(&self) -> &Path {
        match &self.folder {
            Folder::Own(folder) => folder.path(),
            Folder::Other(folder) => folder,
        }
    }

    pub fn open(&self) -> AdapterRegistry {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<AdapterRegistry, AdapterError> {
        let (reads, hook) = (self.reads.clone(), self.hook.clone());
        let options = RegistryOptions {
            store: self.path().to_owned(),
            host_bytes: self.host_bytes,
            keep_versions: self.keep_versions,
            limits: ReadLimits { max_rank: 64 },
            accept: |_| Ok(()),
        };
        let reader: Reader = Box::new(move |package, digest| {
            reads.fetch_add(1, Ordering::SeqCst);
            hook(package);
            read(package).map(|adapter| Adapter { digest, ..adapter })
        });
        AdapterRegistry::open_with(options, Digest::of(b"toy"), reader)
    }

    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Places a folder by hand.
    pub fn place(&self, id: &str, seed: u32) -> PathBuf {
        let folder = self.path().join(id);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, content) in package(seed).files {
            std::fs::write(folder.join(name), content).unwrap();
        }
        folder
    }

    /// Folders in the store's `packages/`.
    pub fn packages(&self) -> usize {
        std::fs::read_dir(self.path().join(".versions/packages")).unwrap().count()
    }

    /// Waits for the sweeper.
    pub fn expect_packages(&self, count: usize) {
        let start = Instant::now();
        while self.packages() != count {
            assert!(start.elapsed() < Duration::from_secs(10), "{} packages, expected {count}", self.packages());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Bytes of every toy adapter in memory.
pub const BYTES: u64 = 400;

/// A package of 100 numbers, all `seed`.
pub fn package(seed: u32) -> Package {
    let mut package = Package::default();
    package.files.insert("adapter_config.json".into(), format!("{{\"seed\": {seed}}}").into());
    package.files.insert("adapter_model.safetensors".into(), seed.to_le_bytes().repeat(100).into());
    package
}

/// The same with a description.
pub fn described(seed: u32, description: &str) -> Package {
    let metadata = Metadata { description: Some(description.into()), ..Metadata::default() };
    Package { metadata, ..package(seed) }
}

/// Reads what [`package`] makes.
fn read(package: &Package) -> Result<Adapter, AdapterError> {
    let config =
        package.files.get("adapter_config.json").ok_or_else(|| AdapterError::invalid("no adapter_config.json"))?;
    let config: serde_json::Value = serde_json::from_slice(config).map_err(|e| AdapterError::invalid(e.to_string()))?;
    if let Some(why) = config["refuse"].as_str() {
        return Err(AdapterError::unsupported(why));
    }
    let weights = package.files.get("adapter_model.safetensors").ok_or_else(|| AdapterError::invalid("no weights"))?;
    let numbers: Vec<f32> = weights.chunks_exact(4).map(|n| u32::from_le_bytes(n.try_into().unwrap()) as f32).collect();
    let embeddings = Tensor::from_vec(numbers, (weights.len() / 4, 1), &Device::Cpu)?;
    Ok(Adapter {
        positions: None,
        digest: package.digest(),
        base: "toy".into(),
        kind: Kind::PromptTuning,
        task: TaskKind::Generate,
        rank: 0,
        patches: Vec::new(),
        embedding: None,
        virtual_tokens: Some(VirtualTokens { embeddings, leading: true }),
        prefix: None,
        head: None,
        prompt_format: None,
        generation: GenerationDefaults::default(),
        description: package.metadata.description.clone(),
        on_device: OnDevice::default(),
    })
}

/// The seed that an adapter was made of; fails if its numbers disagree.
pub fn seed_of(lease: &Lease) -> u32 {
    let numbers = lease.virtual_tokens.as_ref().unwrap().embeddings.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(numbers.iter().all(|n| *n == numbers[0]), "an adapter of mixed content");
    numbers[0] as u32
}

pub fn name(text: &str) -> AdapterName {
    text.parse().unwrap()
}

pub fn reference(text: &str) -> AdapterRef {
    text.parse().unwrap()
}
