//! What is known of a hand-placed folder, and whether it still holds.

use std::sync::Arc;

use parking_lot::Mutex;

use super::artefact::{Artefact, Artefacts};
use super::flight::twin;
use crate::adapter::store::{Note, Stamp, Summary};
use crate::adapter::{AdapterError, AdapterName, Lease};

/// Version 1 of a name, placed by hand. Its digest is learnt when first asked for (reading a thousand folders would make the start slow),
/// and again when the files have changed; while changed files cannot be read, what was known before holds.
pub struct Placed {
    name: AdapterName,
    /// Locked while the folder is read: only those who ask for this very adapter wait.
    known: Mutex<Known>,
}

enum Known {
    Nothing,
    Content { stamp: Stamp, artefact: Arc<Artefact>, created_at: jiff::Timestamp, unreadable: Option<Stamp> },
    Unreadable { stamp: Stamp, error: AdapterError },
}

/// The content of a version.
pub struct Content {
    pub artefact: Arc<Artefact>,
    pub created_at: jiff::Timestamp,
    /// The adapter, when finding out took reading it and it was asked for.
    pub lease: Option<Lease>,
}

impl Placed {
    pub fn new(name: AdapterName) -> Self {
        Self { name, known: Mutex::new(Known::Nothing) }
    }

    /// The folder's content: by a look at sizes and times if it is known, else from a note of an earlier run, else by reading it.
    /// What was read for that is thrown away (a list of a thousand must not push out what is in use), unless `keep`.
    pub fn content(&self, all: &Arc<Artefacts>, keep: bool) -> Result<Content, AdapterError> {
        let mut known = self.known.lock();
        let stamp = match all.store.stamp(&self.name) {
            Ok(stamp) => stamp,
            // Perhaps it is in memory: then it is served on.
            Err(error) => return known.content(&self.name).ok_or(error),
        };
        match &*known {
            Known::Content { stamp: last, unreadable, .. } if *last == stamp || unreadable.as_ref() == Some(&stamp) => {
                return known.content(&self.name).ok_or_else(|| AdapterError::NotFound(self.name.to_string()));
            }
            Known::Unreadable { stamp: last, error } if *last == stamp => return Err(twin(error)),
            _ => {}
        }
        match self.look(all, &stamp, keep) {
            Ok(content) => {
                let (artefact, created_at) = (content.artefact.clone(), content.created_at);
                *known = Known::Content { stamp, artefact, created_at, unreadable: None };
                Ok(content)
            }
            Err(error) => {
                tracing::warn!(name = %self.name, %error, "a hand-placed adapter cannot be read");
                match &mut *known {
                    Known::Content { unreadable, .. } => *unreadable = Some(stamp),
                    // A failing disk may recover; what is wrong with the files themselves stays wrong until they change.
                    _ if matches!(error, AdapterError::Store(_)) => return Err(error),
                    _ => *known = Known::Unreadable { stamp, error: twin(&error) },
                }
                known.content(&self.name).ok_or(error)
            }
        }
    }

    /// What the folder's content is known to be, if that still holds and nobody reads it just now.
    pub fn known_artefact(&self, all: &Artefacts) -> Option<Arc<Artefact>> {
        match &*self.known.try_lock()? {
            Known::Content { stamp, artefact, .. } => {
                (all.store.stamp(&self.name).ok()? == *stamp).then(|| artefact.clone())
            }
            Known::Nothing | Known::Unreadable { .. } => None,
        }
    }

    fn look(&self, all: &Arc<Artefacts>, stamp: &Stamp, keep: bool) -> Result<Content, AdapterError> {
        let note = all.store.placed_note(&self.name);
        if let Some(note) = note.filter(|note| note.stamp == *stamp && note.read_for == all.read_for) {
            let artefact = all.get(note.digest);
            artefact.set_placed(&self.name);
            artefact.set_summary(note.summary);
            return Ok(Content { artefact, created_at: note.created_at, lease: None });
        }
        let (package, created_at) = all.store.read_placed(&self.name)?;
        let digest = package.digest();
        let adapter = all.read(&package, digest)?;
        let summary = Summary::of(&adapter);
        let artefact = all.get(digest);
        artefact.set_placed(&self.name);
        artefact.set_summary(summary.clone());
        let note = Note { stamp: stamp.clone(), digest, created_at, read_for: all.read_for, summary };
        all.store.note_placed(&self.name, &note);
        // Admitted while the folder is locked, so that those who wait find it in memory.
        let lease = keep.then(|| artefact.admit(Arc::new(adapter)));
        Ok(Content { artefact, created_at, lease })
    }
}

impl Known {
    fn content(&self, name: &AdapterName) -> Option<Content> {
        let Self::Content { artefact, created_at, .. } = self else { return None };
        // Another folder may have the same content; loads come from the one that was asked for.
        artefact.set_placed(name);
        Some(Content { artefact: artefact.clone(), created_at: *created_at, lease: None })
    }
}
