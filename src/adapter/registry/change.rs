//! Publications, and everything else that moves a name's pointer.

use std::sync::Arc;

use super::artefact::Artefact;
use super::name::{Source, State, Version};
use super::{AdapterInfo, AdapterRegistry, MetadataChange, PublishIf, Published};
use crate::adapter::store::Summary;
use crate::adapter::{AdapterError, AdapterName, AdapterRef, Package, Selector};

impl AdapterRegistry {
    /// Checks, stores and publishes a package as the next version of `name`.
    ///
    /// Bytes that a version of this name has already make that version current again, and no new one: after a
    /// successful upload the name means what was uploaded. An upload refused leaves nothing behind.
    pub fn publish(
        &self,
        name: &AdapterName,
        package: Package,
        condition: PublishIf,
    ) -> Result<Published, AdapterError> {
        check_files(&package)?;
        // Refused now rather than after reading and writing; what decides is the check under the name's lock, below.
        match self.names.find(name) {
            Ok(state) => state.check(condition, name, &self.all)?,
            Err(AdapterError::NotFound(_)) => State::empty().check(condition, name, &self.all)?,
            Err(error) => return Err(error),
        }
        let digest = package.digest();
        let adapter = self.all.read(&package, digest)?;
        // Held from here on, so that the sweeper leaves the files alone; dropped with them if anything fails.
        let artefact = self.all.get(digest);
        let summary = Summary::of(&adapter);
        self.all.store.put(&digest, &package).map_err(AdapterError::Store)?;
        artefact.set_stored();
        self.all.store.note_summary(&digest, &self.all.read_for, &summary);
        artefact.set_summary(summary);
        // In memory before the pointer moves: the first request does not wait for a load.
        let lease = artefact.admit(Arc::new(adapter));

        let mut created = false;
        let state = self.names.change(name, |state| {
            state.check(condition, name, &self.all)?;
            let known = state.with_digest(digest, &self.all).map(|version| version.number);
            if known.is_some() && known == state.current {
                return Ok(None);
            }
            let mut next = state.clone();
            next.current = Some(known.unwrap_or(state.next));
            if known.is_none() {
                created = true;
                let source = Source::Stored { artefact: artefact.clone(), created_at: jiff::Timestamp::now() };
                next.versions.push(Version { number: state.next, source });
                next.next += 1;
            }
            self.move_pin(name, state, &mut next, &artefact)?;
            next.prune(self.keep_versions);
            Ok(Some(next))
        })?;
        drop(lease);
        let info = self.info_of_current(name, &state)?;
        tracing::info!(%name, version = info.version, %digest, created, "adapter published");
        Ok(Published { info, created })
    }

    /// Publishes the current version with other metadata.
    pub fn patch(
        &self,
        name: &AdapterName,
        change: MetadataChange,
        condition: PublishIf,
    ) -> Result<Published, AdapterError> {
        loop {
            let state = self.names.find(name)?;
            state.check(condition, name, &self.all)?;
            let artefact = state.select(&current(name), &self.all)?.content(&self.all)?.artefact;
            let mut package = artefact.package()?;
            package.metadata = change.clone().apply(package.metadata);
            match self.publish(name, package, PublishIf::Current(artefact.digest)) {
                // Somebody published in between; their files get the change.
                Err(AdapterError::Conflict { .. }) if condition == PublishIf::Always => {}
                outcome => return outcome,
            }
        }
    }

    /// Points the name to an older version. It is loaded first: a version that cannot be read never becomes current.
    pub fn rollback(
        &self,
        name: &AdapterName,
        version: u32,
        condition: PublishIf,
    ) -> Result<AdapterInfo, AdapterError> {
        let reference = AdapterRef { name: name.clone(), version: Selector::Number(version) };
        let (lease, artefact) = self.lease_artefact(&reference)?;
        let state = self.names.change(name, |state| {
            state.check(condition, name, &self.all)?;
            state.select(&reference, &self.all)?;
            let mut next = State { current: Some(version), ..state.clone() };
            self.move_pin(name, state, &mut next, &artefact)?;
            Ok((state.current != next.current).then_some(next))
        })?;
        drop(lease);
        tracing::info!(%name, version, "adapter rolled back");
        self.info_of_current(name, &state)
    }

    /// Forgets a name; versions in use live until their last lease ends. A name used again later starts at version 1.
    ///
    /// A hand-placed folder stays where it is: a record without versions hides it until the folder is taken away,
    /// and the next upload under its name becomes the number after the last.
    pub fn delete(&self, name: &AdapterName, condition: PublishIf) -> Result<(), AdapterError> {
        self.names.change(name, |state| {
            if state.current.is_none() {
                return Err(AdapterError::NotFound(name.to_string()));
            }
            state.check(condition, name, &self.all)?;
            let hidden = self.all.store.is_placed(name);
            let next = if hidden { state.next } else { 1 };
            Ok(Some(State { hidden, next, ..State::empty() }))
        })?;
        tracing::info!(%name, "adapter deleted");
        Ok(())
    }

    /// Keeps the current version resident (and loads it), or no longer.
    pub fn pin(&self, name: &AdapterName, pinned: bool) -> Result<AdapterInfo, AdapterError> {
        loop {
            let held = pinned.then(|| self.lease_artefact(&current(name))).transpose()?;
            let mut moved = false;
            let state = self.names.change(name, |state| {
                let Some(version) = state.current() else { return Err(AdapterError::NotFound(name.to_string())) };
                let mut next = State { pinned, pin: None, ..state.clone() };
                if let Some((_, artefact)) = &held {
                    if version.content(&self.all)?.artefact.digest != artefact.digest {
                        moved = true;
                        return Ok(None);
                    }
                    self.move_pin(name, state, &mut next, artefact)?;
                }
                Ok(Some(next))
            })?;
            // Otherwise the pointer moved while the version was loaded; pin what it means now.
            if !moved {
                drop(held);
                drop(self.all.residency.trim());
                return self.info_of_current(name, &state);
            }
        }
    }

    /// Moves the pin of a pinned name to what becomes its current version, unless pinned adapters would outgrow memory.
    fn move_pin(
        &self,
        name: &AdapterName,
        old: &State,
        next: &mut State,
        artefact: &Arc<Artefact>,
    ) -> Result<(), AdapterError> {
        if next.pinned {
            let residency = &self.all.residency;
            let _pinning = residency.pinning.lock();
            let others = residency.pinned_bytes(artefact.slot(), old.pin.as_deref());
            let own = artefact.slot().resident().map_or(0, |adapter| adapter.bytes() as u64);
            let limit = residency.budget();
            if others + own > limit {
                return Err(AdapterError::Invalid(format!(
                    "pinned adapters may take adapters.host_bytes = {limit} bytes; with {name} they would take {}",
                    others + own
                )));
            }
            next.pin_to(artefact);
        }
        Ok(())
    }
}

fn current(name: &AdapterName) -> AdapterRef {
    AdapterRef { name: name.clone(), version: Selector::Current }
}

/// File names become names in a folder of the store, so only plain ones pass.
fn check_files(package: &Package) -> Result<(), AdapterError> {
    if package.files.is_empty() {
        return Err(AdapterError::invalid("an adapter needs at least one file"));
    }
    match package.files.keys().find(|file| file.parse::<AdapterName>().is_err()) {
        Some(file) => Err(AdapterError::Invalid(format!("file name {file:?} is not allowed in an adapter"))),
        None => Ok(()),
    }
}
