//! Leases, lists and files: everything that only looks.

use std::sync::Arc;

use super::artefact::Artefact;
use super::name::{State, Version};
use super::{AdapterInfo, AdapterRegistry, RegistryStats, Residency};
use crate::adapter::{AdapterError, AdapterName, AdapterRef, Lease};

impl AdapterRegistry {
    /// Resolves a reference once and pins what it means; loads it from the store if it is not resident (once, however many ask).
    pub fn lease(&self, reference: &AdapterRef) -> Result<Lease, AdapterError> {
        self.lease_artefact(reference).map(|(lease, _)| lease)
    }

    /// Pins what a reference means if it is in memory; else [`Self::lease`] reads it, or says what is wrong. Takes no longer than a
    /// look at a hand-placed folder.
    pub fn lease_resident(&self, reference: &AdapterRef) -> Option<Lease> {
        let state = self.names.find(&reference.name).ok()?;
        state.select(reference, &self.all).ok()?.lease_resident(&self.all)
    }

    pub(super) fn lease_artefact(&self, reference: &AdapterRef) -> Result<(Lease, Arc<Artefact>), AdapterError> {
        let state = self.names.find(&reference.name).map_err(|error| shown_as(error, reference))?;
        state.select(reference, &self.all)?.lease(&self.all)
    }

    /// Current versions in order of name, after `after`, at most `limit`; and whether there are more. Adapters that cannot be read are left out and logged.
    pub fn list(&self, after: Option<&str>, limit: usize) -> (Vec<AdapterInfo>, bool) {
        if let Err(error) = self.names.look_again() {
            tracing::warn!(%error, "the adapter store cannot be looked through for new folders");
        }
        let names = self.names.snapshot();
        let later = names
            .iter()
            .filter(|(name, state)| after.is_none_or(|after| name.as_str() > after) && state.current.is_some());
        let mut infos = Vec::new();
        for (name, state) in later {
            if infos.len() == limit {
                return (infos, true);
            }
            match self.info_of_current(name, state) {
                Ok(info) => infos.push(info),
                Err(error) => tracing::warn!(%name, %error, "left out of the list"),
            }
        }
        (infos, false)
    }

    /// One version.
    pub fn show(&self, reference: &AdapterRef) -> Result<AdapterInfo, AdapterError> {
        let state = self.names.find(&reference.name).map_err(|error| shown_as(error, reference))?;
        self.info(&reference.name, &state, state.select(reference, &self.all)?)
    }

    /// All kept versions, newest first.
    pub fn versions(&self, name: &AdapterName) -> Result<Vec<AdapterInfo>, AdapterError> {
        let state = self.names.find(name)?;
        let info = |version| match self.info(name, &state, version) {
            Ok(info) => Some(info),
            Err(error) => {
                tracing::warn!(%name, %error, "a version cannot be read and is left out of the list");
                None
            }
        };
        Ok(state.versions.iter().rev().filter_map(info).collect())
    }

    /// A stored file of a version.
    pub fn file(&self, reference: &AdapterRef, file: &str) -> Result<Vec<u8>, AdapterError> {
        let state = self.names.find(&reference.name).map_err(|error| shown_as(error, reference))?;
        let artefact = state.select(reference, &self.all)?.content(&self.all)?.artefact;
        artefact.file(file)?.ok_or_else(|| AdapterError::NotFound(format!("{reference}: file {file}")))
    }

    /// A moment's figures.
    pub fn stats(&self) -> RegistryStats {
        let residency = &self.all.residency;
        RegistryStats { names: self.names.len(), resident: residency.count(), resident_bytes: residency.bytes() }
    }

    /// Loads the pinned adapters and learns what lists show of the others. For a thread of its own, after the start.
    pub fn warm(&self) {
        for (name, state) in self.names.snapshot() {
            let warmed = match state.current {
                Some(_) if state.pinned => self.pin(&name, true).map(drop),
                Some(_) => self.info_of_current(&name, &state).map(drop),
                None => Ok(()),
            };
            if let Err(error) = warmed {
                tracing::warn!(%name, %error, "an adapter of the store cannot be read");
            }
        }
    }

    pub(super) fn info_of_current(&self, name: &AdapterName, state: &State) -> Result<AdapterInfo, AdapterError> {
        let version = state.current().ok_or_else(|| AdapterError::NotFound(name.to_string()))?;
        self.info(name, state, version)
    }

    fn info(&self, name: &AdapterName, state: &State, version: &Version) -> Result<AdapterInfo, AdapterError> {
        let content = version.content(&self.all)?;
        let summary = content.artefact.summary()?;
        let slot = content.artefact.slot();
        let residency = match slot.resident() {
            None => Residency::Store,
            Some(adapter) if adapter.on_device.get() => Residency::Device,
            Some(_) => Residency::Host,
        };
        Ok(AdapterInfo {
            id: name.clone(),
            version: version.number,
            digest: content.artefact.digest,
            base: summary.base.clone(),
            kind: summary.kind,
            task: summary.task,
            labels: summary.labels.clone(),
            rank: summary.rank,
            parameters: summary.parameters,
            bytes: summary.bytes,
            residency,
            pinned: state.pinned && state.current == Some(version.number),
            leases: slot.leases.get(),
            created_at: content.created_at,
            description: summary.description.clone(),
        })
    }
}

/// A missing name is reported as the client wrote it.
fn shown_as(error: AdapterError, reference: &AdapterRef) -> AdapterError {
    match error {
        AdapterError::NotFound(_) => AdapterError::NotFound(reference.to_string()),
        error => error,
    }
}
