//! Turns a base's or an adapter's source into local files.
//!
//! A source is a folder, a `.gguf` file, `hf://org/repo[@revision]` or `dummy://folder`. What is downloaded goes to the cache that Hugging Face's
//! own tools use, in their layout: models fetched with `hf download`, baked into an image or shared by several programs are found, and ours by them.

mod cache;
mod download;
mod error;
mod folder;
mod options;
mod remote;
mod source;

use std::path::{Path, PathBuf};

pub use error::HubError;
pub use options::HubOptions;
pub use source::Source;

/// The local files of a base.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFiles {
    /// Where tokenizer files, the chat template and generation_config.json are, as far as there are any.
    pub folder: PathBuf,
    /// config.json; absent for GGUF, whose metadata says the same.
    pub config: Option<PathBuf>,
    pub weights: Weights,
}

/// Where a base's weights are.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// One file, or the shards of an index in the order of their names.
    Safetensors(Vec<PathBuf>),
    /// `pytorch_model.bin` in zip form.
    Pickle(PathBuf),
    Gguf(PathBuf),
    /// Random, from a fixed seed.
    Dummy,
}

/// How far a download is. Bytes that were there already count as done.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file that is being read.
    pub file: &'a str,
    /// Bytes of all files.
    pub done: u64,
    pub total: u64,
}

/// Finds or downloads a base's files. Blocks.
pub fn resolve(
    source: &str,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ModelFiles, HubError> {
    match Source::parse(source)? {
        Source::Folder(path) => folder::model(&path),
        Source::Gguf(path) => folder::gguf(&path),
        Source::Dummy(path) => folder::dummy(&path),
        Source::Hub(repository) => remote::model(&repository, options, progress),
    }
}

/// Finds an adapter's files, or downloads them if they are no more than `max_bytes`; answers their folder. Blocks.
pub fn resolve_adapter(
    source: &str,
    max_bytes: u64,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, HubError> {
    match Source::parse(source)? {
        Source::Folder(path) => folder::adapter(&path),
        Source::Hub(repository) => remote::adapter(&repository, max_bytes, options, progress),
        Source::Gguf(_) | Source::Dummy(_) => Err(HubError::Source(format!(
            "`{source}` is not an adapter: a folder or hf://org/repo[@revision] is expected"
        ))),
    }
}

/// The file names of an adapter: PEFT's, and ruprompts'.
const ADAPTERS: [[&str; 2]; 2] =
    [["adapter_config.json", "adapter_model.safetensors"], ["prompt.json", "prompt_provider.bin"]];

/// A file that must be there.
fn existing(folder: &Path, name: &str) -> Result<PathBuf, HubError> {
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { Err(HubError::Lacks { folder: folder.to_owned(), what: name.to_owned() }) }
}
