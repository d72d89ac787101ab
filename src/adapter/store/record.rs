//! The record of a name: which versions it has and which one it means.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Store;
use super::durable::{at, write_new};
use crate::adapter::{AdapterName, Digest};

/// `names/<id>.json`. A record without versions hides a hand-placed folder of that name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version that the bare name means; absent when the name was deleted.
    pub current: Option<u32>,
    /// The number of the next upload.
    pub next: u32,
    #[serde(default)]
    pub pinned: bool,
    /// Ascending.
    pub versions: Vec<RecordedVersion>,
}

/// One version in a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedVersion {
    pub number: u32,
    /// Absent for the hand-placed folder, whose content is its owner's affair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<jiff::Timestamp>,
}

impl Record {
    fn check(&self) -> Result<(), &'static str> {
        let numbers = || self.versions.iter().map(|version| version.number);
        let ascending = numbers().is_sorted_by(|a, b| a < b);
        if !ascending || self.next == u32::MAX || numbers().any(|number| number == 0 || number >= self.next) {
            return Err("version numbers must ascend from 1 and stay below `next`");
        }
        match self.current {
            Some(current) if !numbers().any(|number| number == current) => Err("`current` is not among the versions"),
            None if !self.versions.is_empty() => Err("there are versions, but none is current"),
            _ => Ok(()),
        }
    }
}

impl Store {
    fn record(&self, name: &AdapterName) -> PathBuf {
        self.versions.join("names").join(format!("{name}.json"))
    }

    /// All records; those that cannot be read come with the reason.
    pub fn records(&self) -> io::Result<Vec<(AdapterName, io::Result<Record>)>> {
        let folder = self.versions.join("names");
        let entries = match fs::read_dir(&folder) {
            Err(error) if !self.writable && error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| at(&folder, e))?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| at(&folder, e))?;
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".json")?.parse::<AdapterName>().ok());
            let Some(name) = name else {
                tracing::warn!(?file, "not a record of an adapter name; left alone");
                continue;
            };
            let record = self.read_record(&name);
            records.push((name, record));
        }
        Ok(records)
    }

    fn read_record(&self, name: &AdapterName) -> io::Result<Record> {
        let path = self.record(name);
        let text = fs::read(&path).map_err(|e| at(&path, e))?;
        let record: Record = serde_json::from_slice(&text).map_err(|e| at(&path, e.into()))?;
        record.check().map_err(|e| at(&path, io::Error::new(io::ErrorKind::InvalidData, e)))?;
        Ok(record)
    }

    /// Replaces a name's record. On [`Unsettled`](WriteError::Unsettled) the new record is there, but a power cut may undo it.
    pub fn write_record(&self, name: &AdapterName, record: &Record) -> Result<(), WriteError> {
        let write = || {
            let temporary = self.temporary()?;
            write_new(temporary.path(), &serde_json::to_vec_pretty(record)?)?;
            temporary.rename(&self.record(name))
        };
        write().map_err(WriteError::Nothing)?;
        self.settle(&self.versions.join("names")).map_err(WriteError::Unsettled)
    }

    /// Removes a name's record.
    pub fn remove_record(&self, name: &AdapterName) -> Result<(), WriteError> {
        let path = self.record(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(WriteError::Nothing(at(&path, error))),
            _ => {}
        }
        self.settle(&self.versions.join("names")).map_err(WriteError::Unsettled)
    }
}

/// How far a failed change of a record came.
#[derive(Debug)]
pub enum WriteError {
    /// The old record stands.
    Nothing(io::Error),
    /// The change shows, but could not be forced to disk.
    Unsettled(io::Error),
}
