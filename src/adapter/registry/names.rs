//! All names, and the one way to change one.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::RwLock;

use super::artefact::Artefacts;
use super::name::{Name, State};
use crate::adapter::store::WriteError;
use crate::adapter::{AdapterError, AdapterName, Digest};

/// The names of a store.
pub struct Names {
    all: Arc<Artefacts>,
    /// Locked for a look or an insertion, never while anything is read or written.
    map: RwLock<BTreeMap<AdapterName, Arc<Name>>>,
    /// Names whose record cannot be read. They are left alone: taking them for new would lose their versions.
    damaged: HashMap<AdapterName, String>,
}

impl Names {
    /// Reads all records. Also returns the digests that they name, or `None` if one could not be read.
    pub fn read(all: Arc<Artefacts>) -> io::Result<(Self, Option<Vec<Digest>>)> {
        let mut map = BTreeMap::new();
        let mut damaged = HashMap::new();
        let mut named = Vec::new();
        for (name, record) in all.store.records()? {
            match record {
                Ok(record) => {
                    named.extend(record.versions.iter().filter_map(|version| version.digest));
                    let state = State::of(&record, &name, &all);
                    map.insert(name, Arc::new(Name::new(state)));
                }
                Err(error) => {
                    tracing::error!(%name, %error, "the record of an adapter cannot be read; the adapter is left alone");
                    damaged.insert(name, error.to_string());
                }
            }
        }
        let named = damaged.is_empty().then_some(named);
        Ok((Self { all, map: RwLock::new(map), damaged }, named))
    }

    /// The state of a name that exists. A name not known yet is looked for among the hand-placed folders.
    pub fn find(&self, name: &AdapterName) -> Result<Arc<State>, AdapterError> {
        self.refuse_damaged(name)?;
        let known = self.map.read().get(name).map(|known| known.state());
        let state = match known {
            Some(state) => state,
            None if self.all.store.is_placed(name) => self.insert(name, State::placed(name)).state(),
            None => return Err(AdapterError::NotFound(name.to_string())),
        };
        if state.current.is_none() { Err(AdapterError::NotFound(name.to_string())) } else { Ok(state) }
    }

    /// All names in order, with their states.
    pub fn snapshot(&self) -> Vec<(AdapterName, Arc<State>)> {
        self.map.read().iter().map(|(name, entry)| (name.clone(), entry.state())).collect()
    }

    /// Names in use.
    pub fn len(&self) -> usize {
        self.map.read().values().filter(|name| name.state().current.is_some()).count()
    }

    /// Changes a name: `change` gets its state and answers with the next one, or `None` to leave it. Returns what then holds.
    /// The record is on disk before the new state shows. One change of a name at a time; other names do not wait.
    pub fn change(
        &self,
        name: &AdapterName,
        change: impl FnOnce(&State) -> Result<Option<State>, AdapterError>,
    ) -> Result<Arc<State>, AdapterError> {
        self.refuse_damaged(name)?;
        loop {
            let entry = self.for_change(name);
            let _writing = entry.writing.lock();
            let old = entry.state();
            if old.gone {
                continue;
            }
            let changed = change(&old).and_then(|next| next.map_or(Ok(()), |next| self.write(name, &entry, next)));
            let state = entry.state();
            self.retire_if_empty(name, &entry);
            return changed.map(|()| state);
        }
    }

    fn write(&self, name: &AdapterName, entry: &Name, next: State) -> Result<(), AdapterError> {
        let written = match next.record() {
            Some(record) => self.all.store.write_record(name, &record),
            None => self.all.store.remove_record(name),
        };
        match written {
            Ok(()) => {
                entry.set(next);
                Ok(())
            }
            Err(WriteError::Nothing(error)) => Err(AdapterError::Store(error)),
            Err(WriteError::Unsettled(error)) => {
                // Memory follows what the disk shows; the client hears that it may not last.
                entry.set(next);
                Err(AdapterError::Store(error))
            }
        }
    }

    /// Takes notice of folders that were placed or taken away by hand.
    pub fn look_again(&self) -> io::Result<()> {
        for name in self.all.store.placed(|name| self.map.read().contains_key(name))? {
            if !self.damaged.contains_key(&name) {
                self.insert(&name, State::placed(&name));
            }
        }
        let only_placed = |state: &State| state.record().is_none() || state.hidden && state.versions.is_empty();
        for (name, state) in self.snapshot() {
            if only_placed(&state) && self.all.store.is_gone(&name) {
                self.all.store.forget_placed(&name);
                let gone = self.change(&name, |state| Ok(only_placed(state).then(State::empty)));
                if let Err(error) = gone {
                    tracing::warn!(%name, %error, "the record of a folder that is gone cannot be removed");
                }
            }
        }
        Ok(())
    }

    fn refuse_damaged(&self, name: &AdapterName) -> Result<(), AdapterError> {
        match self.damaged.get(name) {
            Some(reason) => Err(AdapterError::Store(io::Error::new(io::ErrorKind::InvalidData, reason.clone()))),
            None => Ok(()),
        }
    }

    fn for_change(&self, name: &AdapterName) -> Arc<Name> {
        let known = self.map.read().get(name).cloned();
        known.unwrap_or_else(|| {
            let state = if self.all.store.is_placed(name) { State::placed(name) } else { State::empty() };
            self.insert(name, state)
        })
    }

    /// Enters a name, unless somebody was faster.
    fn insert(&self, name: &AdapterName, state: State) -> Arc<Name> {
        let mut map = self.map.write();
        map.entry(name.clone()).or_insert_with(|| Arc::new(Name::new(state))).clone()
    }

    /// Takes an unused name out of the map. The caller holds its `writing` lock.
    fn retire_if_empty(&self, name: &AdapterName, entry: &Name) {
        let state = entry.state();
        if state.versions.is_empty() && !state.hidden {
            entry.set(State { gone: true, ..State::empty() });
            self.map.write().remove(name);
        }
    }
}
