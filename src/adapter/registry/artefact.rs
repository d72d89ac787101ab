//! One digest: its files, its place in memory, and everybody who holds it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::flight::{Flight, twin};
use super::loaders::Loaders;
use super::residency::Residency;
use super::slot::{Slot, SlotState};
use crate::adapter::store::{Seal, Store, Summary};
use crate::adapter::{Adapter, AdapterError, AdapterName, Digest, Lease, Package};

/// From files to tensors; the digest is the package's.
pub type Reader = Box<dyn Fn(&Package, Digest) -> Result<Adapter, AdapterError> + Send + Sync>;

/// All digests of a store that somebody holds, and what they share.
pub struct Artefacts {
    pub store: Store,
    pub reader: Reader,
    /// What the reader reads for: summaries noted for other bases are read again.
    pub read_for: Digest,
    pub residency: Residency,
    /// For those who wait for an answer.
    pub loaders: Loaders,
    /// For publications and lists, which may be many and large and do not hold up the former.
    readers: Loaders,
    /// Those alive. Never locked for a lease: only publications and the sweeper come here.
    table: Mutex<HashMap<Digest, Weak<Artefact>>>,
    /// Digests that nobody holds any more. `None` when the registry closes: then nothing is removed.
    pub sweeps: Mutex<Option<Sender<Digest>>>,
}

/// A content. Records, publications and leases hold it; with the last of them memory and files go.
pub struct Artefact {
    pub digest: Digest,
    slot: Arc<Slot>,
    /// Whether its files are in the store's `packages/`.
    stored: AtomicBool,
    /// The hand-placed folder that has (or had) this content.
    placed: Mutex<Option<AdapterName>>,
    summary: Mutex<Option<Arc<Summary>>>,
    /// That its files are what the digest says.
    seal: Seal,
    all: Arc<Artefacts>,
}

impl Artefacts {
    pub fn new(store: Store, reader: Reader, read_for: Digest, host_bytes: u64) -> io::Result<Self> {
        Ok(Self {
            store,
            reader,
            read_for,
            residency: Residency::new(host_bytes),
            loaders: Loaders::start("loader", 4).map_err(io::Error::other)?,
            readers: Loaders::start("reader", 2).map_err(io::Error::other)?,
            table: Mutex::default(),
            sweeps: Mutex::new(None),
        })
    }

    /// The artefact of a digest, held from now on: its files stay.
    pub fn get(self: &Arc<Self>, digest: Digest) -> Arc<Artefact> {
        let mut table = self.table.lock();
        if let Some(artefact) = table.get(&digest).and_then(Weak::upgrade) {
            return artefact;
        }
        let artefact = Arc::new(Artefact {
            digest,
            slot: Arc::default(),
            stored: AtomicBool::new(false),
            placed: Mutex::new(None),
            summary: Mutex::new(None),
            seal: Seal::default(),
            all: self.clone(),
        });
        table.insert(digest, Arc::downgrade(&artefact));
        artefact
    }

    /// Removes the files of a digest, unless somebody holds it again.
    pub fn sweep(&self, digest: &Digest) {
        // One rename under the lock: whoever publishes the digest again comes before it and is seen here, or after it and writes the files anew.
        let mut table = self.table.lock();
        if table.get(digest).is_some_and(|artefact| artefact.strong_count() > 0) {
            return;
        }
        table.remove(digest);
        let away = self.store.take_away(digest);
        drop(table);
        drop(away);
    }

    /// Reads a package, whose digest is known, into an adapter.
    pub fn read(&self, package: &Package, digest: Digest) -> Result<Adapter, AdapterError> {
        self.readers.run(|| (self.reader)(package, digest))
    }
}

impl Artefact {
    /// Its place in memory.
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Says that its files are in `packages/`.
    pub fn set_stored(&self) {
        self.stored.store(true, Ordering::Release);
    }

    /// Says that a hand-placed folder has its files.
    pub fn set_placed(&self, name: &AdapterName) {
        *self.placed.lock() = Some(name.clone());
    }

    /// A lease on it; loads it if it is not in memory. One asker loads, the others wait for that load and share its fate.
    pub fn lease(self: &Arc<Self>) -> Result<Lease, AdapterError> {
        let flight = {
            let mut state = self.slot.state.lock();
            match &*state {
                SlotState::Resident(adapter) => return Ok(self.hold(adapter.clone())),
                SlotState::Loading(flight) => Err(flight.clone()),
                SlotState::Out => {
                    let flight = Arc::new(Flight::default());
                    *state = SlotState::Loading(flight.clone());
                    Ok(flight)
                }
            }
        };
        match flight {
            Ok(mine) => self.load_for(mine),
            Err(other) => Ok(self.admit(other.wait()?)),
        }
    }

    /// A lease on it if it is in memory.
    pub fn lease_resident(self: &Arc<Self>) -> Option<Lease> {
        match &*self.slot.state.lock() {
            SlotState::Resident(adapter) => Some(self.hold(adapter.clone())),
            SlotState::Out | SlotState::Loading(_) => None,
        }
    }

    fn load_for(self: &Arc<Self>, flight: Arc<Flight>) -> Result<Lease, AdapterError> {
        let _landing = Landing { slot: &self.slot, flight: &flight };
        match self.load() {
            Ok(adapter) => {
                let lease = self.admit(Arc::new(adapter));
                flight.land(Ok(lease.adapter().clone()));
                Ok(lease)
            }
            Err(error) => {
                // The next asker must find the slot empty, so it is cleared before anyone hears of the failure.
                self.slot.clear(&flight);
                flight.land(Err(twin(&error)));
                Err(error)
            }
        }
    }

    fn load(&self) -> Result<Adapter, AdapterError> {
        self.all.loaders.run(|| (self.all.reader)(&self.package()?, self.digest))
    }

    /// Puts an adapter of this digest into memory (or takes the one that is there) and leases it.
    pub fn admit(self: &Arc<Self>, adapter: Arc<Adapter>) -> Lease {
        let (lease, entered) = {
            let mut state = self.slot.state.lock();
            match &*state {
                SlotState::Resident(here) => (self.hold(here.clone()), false),
                SlotState::Out | SlotState::Loading(_) => {
                    *state = SlotState::Resident(adapter.clone());
                    (self.hold(adapter), true)
                }
            }
        };
        if entered {
            self.all.residency.enter(&self.slot, lease.bytes() as u64);
            // Here, so that what goes makes room for what comes.
            drop(self.all.residency.trim());
        }
        lease
    }

    fn hold(self: &Arc<Self>, adapter: Arc<Adapter>) -> Lease {
        self.all.residency.touch(&self.slot);
        Lease::of(self.clone(), adapter, self.slot.leases.clone())
    }

    /// The last lease has ended: what exceeded the budget for its sake goes. Not here: this may be the engine's thread.
    pub(in crate::adapter) fn released(&self) {
        let freed = self.all.residency.trim();
        if !freed.is_empty() {
            self.all.readers.drop_there(freed);
        }
    }

    /// Its files and metadata, checked against the digest.
    pub fn package(&self) -> Result<Package, AdapterError> {
        if self.stored.load(Ordering::Acquire) {
            return self.all.store.read(&self.digest, &self.seal);
        }
        let name = self.placed.lock().clone();
        let name = name.ok_or_else(|| AdapterError::NotFound(self.digest.to_string()))?;
        let (package, _) = self.all.store.read_placed(&name)?;
        if self.seal.confirms(&package, &self.digest) {
            return Ok(package);
        }
        let message = format!("the folder of {name} is no longer what {} was", self.digest);
        Err(AdapterError::Store(io::Error::new(io::ErrorKind::InvalidData, message)))
    }

    /// One of its files.
    pub fn file(&self, file: &str) -> Result<Option<Vec<u8>>, AdapterError> {
        if self.stored.load(Ordering::Acquire) {
            return self.all.store.read_one(&self.digest, file).map_err(AdapterError::Store);
        }
        match self.placed.lock().clone() {
            Some(name) => self.all.store.read_placed_file(&name, file),
            None => Ok(None),
        }
    }

    /// What lists show of it; loads nothing unless it was never noted.
    pub fn summary(&self) -> Result<Arc<Summary>, AdapterError> {
        let mut known = self.summary.lock();
        if let Some(summary) = &*known {
            return Ok(summary.clone());
        }
        let stored = self.stored.load(Ordering::Acquire);
        let summary = if let Some(adapter) = self.slot.resident() {
            Summary::of(&adapter)
        } else if let Some(noted) = stored.then(|| self.all.store.summary(&self.digest, &self.all.read_for)).flatten() {
            noted
        } else {
            let summary = Summary::of(&self.all.read(&self.package()?, self.digest)?);
            if stored {
                self.all.store.note_summary(&self.digest, &self.all.read_for, &summary);
            }
            summary
        };
        Ok(known.insert(Arc::new(summary)).clone())
    }

    /// Says what lists show of it.
    pub fn set_summary(&self, summary: Summary) {
        *self.summary.lock() = Some(Arc::new(summary));
    }
}

impl Drop for Artefact {
    fn drop(&mut self) {
        self.all.residency.leave(&self.slot);
        self.all.readers.drop_there(std::mem::take(&mut self.slot));
        // Files are removed on the sweeper's thread: the last holder may be the engine, which must not wait for a disk.
        if let Some(sweeps) = &*self.all.sweeps.lock() {
            let _ = sweeps.send(self.digest);
        }
    }
}

/// Ends a flight even when the reader panics, so that nobody waits for ever.
struct Landing<'a> {
    slot: &'a Slot,
    flight: &'a Arc<Flight>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.slot.clear(self.flight);
            let message = "the adapter's reader panicked";
            self.flight.land(Err(AdapterError::Store(io::Error::other(message))));
        }
    }
}
