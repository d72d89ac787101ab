//! A repository on the hub: what is in it, and which of its files are needed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::cache::{Cache, is_commit};
use super::download::{Entry, download};
use super::folder::{self, INDEX};
use super::source::Repository;
use super::{ADAPTERS, HubError, HubOptions, ModelFiles, Progress};

/// What a base may bring beside its weights.
const SIDE_FILES: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
];

/// A connection to the hub on behalf of one repository.
pub(super) struct Remote<'a> {
    pub options: &'a HubOptions,
    repository: &'a Repository,
    agent: Agent,
}

/// `/api/models/{repo}/revision/{revision}?blobs=true`, as far as it is needed.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

/// Downloads what is missing of a base.
pub(super) fn model(
    repository: &Repository,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ModelFiles, HubError> {
    let read = |snapshot: &Path| match &repository.file {
        Some(file) => folder::gguf(&snapshot.join(file)),
        None => folder::model(snapshot),
    };
    obtain(repository, options, &read, &mut |remote| remote.fetch_model(progress))
}

/// Downloads what is missing of an adapter.
pub(super) fn adapter(
    repository: &Repository,
    max_bytes: u64,
    options: &HubOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, HubError> {
    obtain(repository, options, &folder::adapter, &mut |remote| remote.fetch_adapter(max_bytes, progress))
}

/// Takes what the cache has when that must be right or nothing else can be had; fetches otherwise.
fn obtain<T>(
    repository: &Repository,
    options: &HubOptions,
    read: &dyn Fn(&Path) -> Result<T, HubError>,
    fetch: &mut dyn FnMut(&Remote<'_>) -> Result<PathBuf, HubError>,
) -> Result<T, HubError> {
    let cache = Cache::new(&options.cache, repository);
    let cached = || match cache.commit(&repository.revision) {
        Some(commit) => read(&cache.snapshot(&commit)),
        None => Err(HubError::Source(format!("revision `{}` was never downloaded", repository.revision))),
    };
    if options.offline {
        let offline = |error: HubError| HubError::Offline {
            cache: options.cache.clone(),
            repository: repository.name.clone(),
            reason: error.to_string(),
        };
        return cached().map_err(offline);
    }
    if is_commit(&repository.revision)
        && let Ok(files) = cached()
    {
        return Ok(files);
    }
    match fetch(&Remote::new(options, repository)) {
        Ok(snapshot) => read(&snapshot),
        Err(error @ (HubError::Network { .. } | HubError::Status { status: 429 | 500.., .. })) => match cached() {
            Ok(files) => {
                tracing::warn!(%error, "the hub does not answer, taking the files of the last download");
                Ok(files)
            }
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

impl<'a> Remote<'a> {
    fn new(options: &'a HubOptions, repository: &'a Repository) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The token is for the hub, not for the store it sends us to.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .user_agent(concat!("repertoire/", env!("CARGO_PKG_VERSION")))
            // Sizes and ranges are those of the file itself.
            .accept_encoding("identity")
            .build();
        Self { options, repository, agent: Agent::new_with_config(config) }
    }

    fn fetch_model(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, HubError> {
        let listing = self.list()?;
        let has = |name: &str| listing.siblings.iter().any(|sibling| sibling.rfilename == name);
        if let Some(file) = &self.repository.file {
            return self.fetch(&listing, std::slice::from_ref(file), progress);
        }
        // A tokenizer.json holds what the older files do.
        let older = |name: &str| has("tokenizer.json") && matches!(name, "vocab.json" | "merges.txt" | "vocab.txt");
        let side = SIDE_FILES.into_iter().filter(|name| has(name) && !older(name));
        let mut wanted: Vec<String> = side.map(str::to_owned).collect();
        if has("model.safetensors") {
            wanted.push("model.safetensors".into());
        } else if has(INDEX) {
            wanted.push(INDEX.into());
            let snapshot = self.fetch(&listing, &[INDEX.to_owned()], progress)?;
            wanted.extend(folder::shards(&snapshot.join(INDEX))?);
        } else if has("pytorch_model.bin") {
            wanted.push("pytorch_model.bin".into());
        } else {
            let names = listing.siblings.iter().map(|sibling| &sibling.rfilename);
            let gguf: Vec<&String> = names.filter(|name| name.ends_with(".gguf") && !name.contains('/')).collect();
            match gguf[..] {
                [] => return Err(self.lacks("model.safetensors, pytorch_model.bin or .gguf file")),
                [only] => wanted = vec![only.clone()],
                _ => {
                    let forms = gguf.iter().map(|file| format!("hf://{}/{file}", self.repository.name));
                    let forms: Vec<String> = forms.collect();
                    return Err(HubError::Source(format!("several GGUF files, name one: {}", forms.join(", "))));
                }
            }
        }
        self.fetch(&listing, &wanted, progress)
    }

    fn fetch_adapter(&self, max_bytes: u64, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, HubError> {
        let listing = self.list()?;
        let has = |name: &&str| listing.siblings.iter().any(|sibling| sibling.rfilename == *name);
        let names = ADAPTERS.into_iter().find(|names| names.iter().all(has));
        let names = names.ok_or_else(|| self.lacks(&folder::adapter_files()))?.map(str::to_owned);
        // Known from the listing: what is too large is not even begun.
        let sizes =
            names.iter().map(|name| Ok(self.entry(&listing, name)?.size)).collect::<Result<Vec<_>, HubError>>()?;
        let bytes = sizes.into_iter().fold(0, u64::saturating_add);
        if bytes > max_bytes {
            return Err(HubError::TooLarge { repository: self.repository.name.clone(), bytes, max_bytes });
        }
        self.fetch(&listing, &names, progress)
    }

    fn lacks(&self, what: &str) -> HubError {
        HubError::Lacks { folder: format!("hf://{}", self.repository.name).into(), what: what.to_owned() }
    }

    /// What is in the repository now.
    fn list(&self) -> Result<Listing, HubError> {
        let Repository { name, revision, .. } = self.repository;
        let endpoint = self.options.endpoint.trim_end_matches('/');
        let url = format!("{endpoint}/api/models/{name}/revision/{}?blobs=true", revision.replace('/', "%2F"));
        let mut response = self.get(&url, None)?;
        let body = response.body_mut().with_config().limit(64 << 20).read_to_vec();
        let body = body.map_err(|error| self.unreachable(&url, &error))?;
        let wrong = |reason: String| HubError::Answer { url: url.clone(), reason };
        let listing: Listing = serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))?;
        if !is_commit(&listing.sha) {
            return Err(wrong(format!("`{}` is not a commit", listing.sha)));
        }
        Ok(listing)
    }

    /// Brings files into the cache; answers the folder in which they all are.
    fn fetch(
        &self,
        listing: &Listing,
        names: &[String],
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf, HubError> {
        let Repository { name: repository, revision, .. } = self.repository;
        let cache = Cache::new(&self.options.cache, self.repository);
        let entries: Vec<Entry> = names.iter().map(|name| self.entry(listing, name)).collect::<Result<_, _>>()?;
        let total = entries.iter().map(|entry| entry.size).sum();
        let endpoint = self.options.endpoint.trim_end_matches('/');
        let mut done = 0;
        for entry in &entries {
            let url = format!("{endpoint}/{repository}/resolve/{}/{}", listing.sha, entry.name);
            let file = entry.name.as_str();
            let mut advance = |bytes| progress(Progress { file, done: done + bytes, total });
            download(self, &url, entry, &cache.blob(&entry.etag), &mut advance)?;
            cache.link(&listing.sha, &entry.name, &entry.etag)?;
            done += entry.size;
        }
        cache.set_commit(revision, &listing.sha)?;
        Ok(cache.snapshot(&listing.sha))
    }

    fn entry(&self, listing: &Listing, name: &str) -> Result<Entry, HubError> {
        let sibling =
            listing.siblings.iter().find(|sibling| sibling.rfilename == name).ok_or_else(|| self.lacks(name))?;
        let (etag, size, sha256) = match &sibling.lfs {
            Some(large) => (Some(&large.sha256), Some(large.size), Some(large.sha256.clone())),
            None => (sibling.blob_id.as_ref(), sibling.size, None),
        };
        let hex = |etag: &&String| !etag.is_empty() && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (etag.filter(hex), size) {
            (Some(etag), Some(size)) => Ok(Entry { name: name.to_owned(), etag: etag.clone(), size, sha256 }),
            _ => {
                let url = format!("{}/api/models/{}", self.options.endpoint, self.repository.name);
                Err(HubError::Answer { url, reason: format!("{name} is listed without its size and hash") })
            }
        }
    }

    /// Asks for a URL; what is not a success is an error that says what to do.
    pub fn get(&self, url: &str, range: Option<&str>) -> Result<Response<Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.options.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        let response = request.call().map_err(|error| self.unreachable(url, &error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        Err(self.refusal(url, status, code))
    }

    fn refusal(&self, url: &str, status: StatusCode, code: &str) -> HubError {
        let (name, url) = (&self.repository.name, url.to_owned());
        let page = format!("{}/{name}", self.options.endpoint.trim_end_matches('/'));
        let hint = match (code, self.options.token.is_some()) {
            ("GatedRepo", false) => format!("{name} is gated: ask for access at {page} and set HF_TOKEN"),
            ("GatedRepo", true) => format!("{name} is gated, and HF_TOKEN has no access: ask for it at {page}"),
            (_, false) => format!("{name} is private or does not exist: check the name, or set HF_TOKEN"),
            (_, true) => format!("{name} does not exist, or HF_TOKEN may not read it"),
        };
        match status.as_u16() {
            status @ (401 | 403) => HubError::Denied { url, status, hint },
            404 => {
                let what = match code {
                    "RevisionNotFound" => format!("revision `{}`", self.repository.revision),
                    "EntryNotFound" => "file".to_owned(),
                    _ => "repository".to_owned(),
                };
                HubError::Unknown { url, what, repository: name.clone() }
            }
            status => HubError::Status { url, status },
        }
    }

    /// No answer, or not all of it.
    pub fn unreachable(&self, url: &str, error: &dyn std::error::Error) -> HubError {
        HubError::Network { url: url.to_owned(), repository: self.repository.name.clone(), reason: error.to_string() }
    }
}
