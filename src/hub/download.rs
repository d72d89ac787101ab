//! One file from the hub into the cache: taken up where it broke off, checked, and put in place in one step.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::remote::Remote;
use super::{HubError, HubOptions};

/// What the hub says of a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: String,
    /// Names the content: sha-256 for large files, git's sha-1 for small ones.
    pub etag: String,
    pub size: u64,
    /// Only large files have one.
    pub sha256: Option<String>,
}

/// How one attempt ended without the file.
enum Broken {
    /// The transfer stopped; the next attempt goes on.
    Interrupted(HubError),
    /// The file is not what it should be; it starts anew.
    Wrong(HubError),
    /// Trying again will not help.
    Final(HubError),
}

/// Downloads `entry` to `blob`. `advance` is told how many bytes of the file are there, and may be told fewer when it starts anew.
pub(super) fn download(
    remote: &Remote<'_>,
    url: &str,
    entry: &Entry,
    blob: &Path,
    advance: &mut dyn FnMut(u64),
) -> Result<(), HubError> {
    if blob.is_file() {
        advance(entry.size);
        return Ok(());
    }
    if let Some(folder) = blob.parent() {
        std::fs::create_dir_all(folder).map_err(HubError::io(folder))?;
    }
    let partial = blob.with_file_name(format!("{}.incomplete", entry.etag));
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).open(&partial).map_err(HubError::io(&partial))?;
    // Two processes may start with the same empty cache: the second waits, and finds the file.
    file.lock().map_err(HubError::io(&partial))?;
    if blob.is_file() {
        // Empty, if this process made it after the other one had moved its own away.
        if file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = std::fs::remove_file(&partial);
        }
        advance(entry.size);
        return Ok(());
    }
    let options: &HubOptions = remote.options;
    let (mut failures, mut restarted) = (0, false);
    loop {
        let before = file.metadata().map_err(HubError::io(&partial))?.len();
        match attempt(remote, url, entry, &mut file, advance) {
            Ok(()) => break,
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Wrong(error)) => {
                file.set_len(0).map_err(HubError::io(&partial))?;
                if restarted {
                    return Err(error);
                }
                restarted = true;
            }
            Err(Broken::Interrupted(error)) => {
                let after = file.metadata().map_err(HubError::io(&partial))?.len();
                failures = if after > before { 0 } else { failures + 1 };
                if failures > options.retries {
                    return Err(error);
                }
                tracing::warn!(file = entry.name, have = after, of = entry.size, %error, "download interrupted, going on");
                std::thread::sleep(options.pause * 2_u32.saturating_pow(failures.min(6)));
            }
        }
    }
    file.sync_all().map_err(HubError::io(&partial))?;
    std::fs::rename(&partial, blob).map_err(HubError::io(blob))
}

fn attempt(
    remote: &Remote<'_>,
    url: &str,
    entry: &Entry,
    file: &mut File,
    advance: &mut dyn FnMut(u64),
) -> Result<(), Broken> {
    let disk = |error| Broken::Final(HubError::Io { path: entry.name.clone().into(), error });
    let corrupt = |reason| Broken::Wrong(HubError::Corrupt { url: url.to_owned(), reason });
    let mut hash = Sha256::new();
    let mut have = rehash(file, &mut hash).map_err(disk)?;
    if have > entry.size {
        return Err(corrupt(format!("{have} bytes were kept of a file of {}", entry.size)));
    }
    if have < entry.size || entry.size == 0 {
        let range = (have > 0).then(|| format!("bytes={have}-"));
        let mut response = remote.get(url, range.as_deref()).map_err(|error| match error {
            HubError::Network { .. } | HubError::Status { status: 429 | 500.., .. } => Broken::Interrupted(error),
            HubError::Status { status: 416, .. } => Broken::Wrong(error),
            other => Broken::Final(other),
        })?;
        if have > 0 && response.status().as_u16() != 206 {
            // The server sends all of it whatever was asked for.
            file.set_len(0).map_err(disk)?;
            (hash, have) = (Sha256::new(), 0);
        }
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 256 << 10];
        advance(have);
        while have < entry.size {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Err(Broken::Interrupted(remote.unreachable(url, &error))),
            };
            let chunk = &buffer[..count.min(usize::try_from(entry.size - have).unwrap_or(count))];
            file.write_all(chunk).map_err(disk)?;
            hash.update(chunk);
            have += chunk.len() as u64;
            advance(have);
            if chunk.len() < count {
                return Err(corrupt(format!("more comes than the {} bytes the hub announced", entry.size)));
            }
        }
    }
    if have < entry.size {
        let ended = std::io::Error::other(format!("the transfer ended after {have} of {} bytes", entry.size));
        return Err(Broken::Interrupted(remote.unreachable(url, &ended)));
    }
    match &entry.sha256 {
        Some(expected) if !expected.eq_ignore_ascii_case(&hex::encode(hash.finalize())) => {
            Err(corrupt("the content has another sha-256 than the hub says".into()))
        }
        _ => Ok(()),
    }
}

/// Reads what is there into the hash; answers its length.
fn rehash(file: &mut File, hash: &mut Sha256) -> std::io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(length);
        }
        hash.update(&buffer[..count]);
        length += count as u64;
    }
}
