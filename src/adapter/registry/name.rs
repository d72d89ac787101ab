//! A name: a pointer to one of its versions.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::PublishIf;
use super::artefact::{Artefact, Artefacts};
use super::placed::{Content, Placed};
use super::slot::Pin;
use crate::adapter::store::{Record, RecordedVersion};
use crate::adapter::{AdapterError, AdapterName, AdapterRef, Digest, Lease, Selector};

/// The state of a name, replaced as a whole.
pub struct Name {
    /// Held by the one who changes this name, while its record is written. Readers never wait for it.
    pub writing: Mutex<()>,
    state: RwLock<Arc<State>>,
}

/// What a name means at one moment.
#[derive(Clone)]
pub struct State {
    /// Ascending by number.
    pub versions: Vec<Version>,
    pub current: Option<u32>,
    pub next: u32,
    pub pinned: bool,
    /// Keeps the current version in memory while `pinned`.
    pub pin: Option<Arc<Pin>>,
    /// Whether a hand-placed folder of this name was deleted by a client: the folder stays, the name does not show it.
    pub hidden: bool,
    /// Set when the name leaves the registry: who waited to change it must look it up again.
    pub gone: bool,
}

/// One version of a name.
#[derive(Clone)]
pub struct Version {
    pub number: u32,
    pub source: Source,
}

/// Where a version's content is.
#[derive(Clone)]
pub enum Source {
    Stored { artefact: Arc<Artefact>, created_at: jiff::Timestamp },
    Placed(Arc<Placed>),
}

impl Name {
    pub fn new(state: State) -> Self {
        Self { writing: Mutex::new(()), state: RwLock::new(Arc::new(state)) }
    }

    /// The state now; it stays as it is for whoever holds it.
    pub fn state(&self) -> Arc<State> {
        self.state.read().clone()
    }

    /// Replaces the state. The old one is dropped without the lock.
    pub fn set(&self, state: State) {
        let state = Arc::new(state);
        let old = std::mem::replace(&mut *self.state.write(), state);
        drop(old);
    }
}

impl State {
    /// A name that nobody has used.
    pub fn empty() -> Self {
        Self { versions: Vec::new(), current: None, next: 1, pinned: false, pin: None, hidden: false, gone: false }
    }

    /// A hand-placed folder without a record.
    pub fn placed(name: &AdapterName) -> Self {
        let version = Version { number: 1, source: Source::Placed(Arc::new(Placed::new(name.clone()))) };
        Self { versions: vec![version], current: Some(1), next: 2, ..Self::empty() }
    }

    /// From its record.
    pub fn of(record: &Record, name: &AdapterName, all: &Arc<Artefacts>) -> Self {
        let version = |version: &RecordedVersion| Version {
            number: version.number,
            source: match version.digest {
                None => Source::Placed(Arc::new(Placed::new(name.clone()))),
                Some(digest) => {
                    let artefact = all.get(digest);
                    artefact.set_stored();
                    Source::Stored { artefact, created_at: version.created_at.unwrap_or_default() }
                }
            },
        };
        let versions = record.versions.iter().map(version).collect();
        let hidden = record.versions.is_empty();
        let mut state = Self {
            versions,
            current: record.current,
            next: record.next,
            pinned: record.pinned,
            hidden,
            ..Self::empty()
        };
        if let Some(Version { source: Source::Stored { artefact, .. }, .. }) = state.current().cloned() {
            state.pin_to(&artefact);
        }
        state
    }

    /// The record of this state; `None` where none is needed.
    pub fn record(&self) -> Option<Record> {
        let untouched = matches!(&self.versions[..], [Version { source: Source::Placed(_), .. }]) && !self.pinned;
        if untouched || (self.versions.is_empty() && !self.hidden) {
            return None;
        }
        let version = |version: &Version| match &version.source {
            Source::Stored { artefact, created_at } => {
                RecordedVersion { number: version.number, digest: Some(artefact.digest), created_at: Some(*created_at) }
            }
            Source::Placed(_) => RecordedVersion { number: version.number, digest: None, created_at: None },
        };
        let versions = self.versions.iter().map(version).collect();
        Some(Record { current: self.current, next: self.next, pinned: self.pinned, versions })
    }

    /// The version that the bare name means.
    pub fn current(&self) -> Option<&Version> {
        self.version(self.current?)
    }

    /// A version by number.
    pub fn version(&self, number: u32) -> Option<&Version> {
        self.versions.iter().find(|version| version.number == number)
    }

    /// The version that a reference to this name means.
    pub fn select(&self, reference: &AdapterRef, all: &Arc<Artefacts>) -> Result<&Version, AdapterError> {
        let found = match reference.version {
            Selector::Current => self.current(),
            Selector::Number(number) => self.version(number),
            Selector::Digest(digest) => self.with_digest(digest, all),
            Selector::Checkpoint(_) => None,
        };
        found.ok_or_else(|| AdapterError::NotFound(reference.to_string()))
    }

    /// The version with a digest. The hand-placed one comes last: finding out its digest may take reading it.
    pub fn with_digest(&self, digest: Digest, all: &Arc<Artefacts>) -> Option<&Version> {
        let stored = |v: &&Version| matches!(&v.source, Source::Stored { artefact, .. } if artefact.digest == digest);
        let placed = |v: &&Version| matches!(&v.source, Source::Placed(_) if v.content(all).is_ok_and(|c| c.artefact.digest == digest));
        self.versions.iter().find(stored).or_else(|| self.versions.iter().find(placed))
    }

    /// Whether a condition on the current version holds.
    pub fn check(&self, condition: PublishIf, name: &AdapterName, all: &Arc<Artefacts>) -> Result<(), AdapterError> {
        if condition == PublishIf::Always {
            return Ok(());
        }
        let current =
            self.current().map(|version| version.content(all)).transpose()?.map(|content| content.artefact.digest);
        let holds = match condition {
            PublishIf::Always => true,
            PublishIf::Absent => current.is_none(),
            PublishIf::Current(digest) => current == Some(digest),
        };
        if holds { Ok(()) } else { Err(AdapterError::Conflict { name: name.to_string(), current }) }
    }

    /// Moves the pin, if the name is pinned, to what is now its current version.
    pub fn pin_to(&mut self, artefact: &Arc<Artefact>) {
        self.pin = self.pinned.then(|| Arc::new(Pin::new(artefact.slot().clone())));
    }

    /// Drops the oldest uploaded versions beyond `keep`; never the current one, nor the hand-placed one.
    pub fn prune(&mut self, keep: usize) {
        let old = |v: &Version| Some(v.number) != self.current && matches!(v.source, Source::Stored { .. });
        let mut surplus = self.versions.iter().filter(|v| old(v)).count().saturating_sub(keep);
        let current = self.current;
        self.versions.retain(|v| {
            let goes = surplus > 0 && Some(v.number) != current && matches!(v.source, Source::Stored { .. });
            surplus -= usize::from(goes);
            !goes
        });
    }
}

impl Version {
    /// Its content; reads it only if it is hand-placed and not known yet.
    pub fn content(&self, all: &Arc<Artefacts>) -> Result<Content, AdapterError> {
        self.look(all, false)
    }

    /// Its content, in memory.
    pub fn lease(&self, all: &Arc<Artefacts>) -> Result<(Lease, Arc<Artefact>), AdapterError> {
        let content = self.look(all, true)?;
        let lease = content.lease.map_or_else(|| content.artefact.lease(), Ok)?;
        Ok((lease.of_version(self.number), content.artefact))
    }

    /// The same if it is there already.
    pub fn lease_resident(&self, all: &Artefacts) -> Option<Lease> {
        let artefact = match &self.source {
            Source::Stored { artefact, .. } => artefact.clone(),
            Source::Placed(placed) => placed.known_artefact(all)?,
        };
        Some(artefact.lease_resident()?.of_version(self.number))
    }

    fn look(&self, all: &Arc<Artefacts>, keep: bool) -> Result<Content, AdapterError> {
        match &self.source {
            Source::Stored { artefact, created_at } => {
                Ok(Content { artefact: artefact.clone(), created_at: *created_at, lease: None })
            }
            Source::Placed(placed) => placed.content(all, keep),
        }
    }
}
