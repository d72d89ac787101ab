//! From files to an [`Adapter`]: exact, or refused by name.

use std::sync::Arc;

use super::kinds::ruprompts::{self, Prompt};
use super::package::{CONFIG, PROMPT, PROVIDER, WEIGHTS};
use super::{Adapter, AdapterError, Digest, Package, base, peft};

/// What an upload may be.
#[derive(Clone, Debug)]
pub struct ReadLimits {
    pub max_rank: usize,
}

/// The two forms of adapters, their configuration understood.
enum Source {
    Peft(peft::Config),
    Ruprompts(Box<Prompt>),
}

impl Adapter {
    /// Reads a package against the base it names. Errors are the client's: `Unsupported` where the adapter is well
    /// formed but cannot be applied exactly, `Invalid` where it contradicts itself or its base.
    pub fn read(
        package: &Package,
        bases: &[Arc<super::SiteMap>],
        limits: &ReadLimits,
    ) -> Result<Adapter, AdapterError> {
        Self::read_as(package.digest(), package, bases, limits)
    }

    /// The same, of a package whose digest is known.
    pub(super) fn read_as(
        digest: Digest,
        package: &Package,
        bases: &[Arc<super::SiteMap>],
        limits: &ReadLimits,
    ) -> Result<Adapter, AdapterError> {
        package.check_complete()?;
        let file = |name: &str| {
            let bytes = package.files.get(name).map(|bytes| &bytes[..]);
            bytes.ok_or_else(|| AdapterError::invalid(format!("{name} is missing")))
        };
        let source = if package.files.contains_key(CONFIG) {
            Source::Peft(peft::Config::parse(file(CONFIG)?)?)
        } else {
            Source::Ruprompts(Box::new(Prompt::parse(file(PROMPT)?)?))
        };
        let saved = match &source {
            Source::Peft(config) => config.base_name()?,
            Source::Ruprompts(prompt) => prompt.base_name(),
        };
        let metadata = &package.metadata;
        base::choose(bases, metadata.base.as_deref(), saved, |map| match &source {
            Source::Peft(config) => {
                let (kind, draft) = peft::read(config, file(WEIGHTS)?, metadata, map, limits)?;
                Ok(draft.finish(digest, kind, metadata))
            }
            Source::Ruprompts(prompt) => {
                let draft = ruprompts::read(prompt, file(PROVIDER)?, metadata, map)?;
                Ok(draft.finish(digest, super::Kind::Ruprompts, metadata))
            }
        })
    }
}
