//! A hub on a local port, with the faults that a real one has.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use repertoire::hub::HubOptions;
use serde_json::json;
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub does wrong.
#[derive(Clone, Default)]
pub struct Faults {
    /// Closes the connection after so many bytes of a file, as often as the number says.
    pub cut: Option<(usize, usize)>,
    /// Answers a range with the whole file.
    pub ignores_range: bool,
    /// Announces another sha-256 than the files have.
    pub wrong_hash: bool,
    /// A status and `x-error-code` for everything.
    pub refuses: Option<(u16, &'static str)>,
    /// Overwrites the beginning of a large file, once.
    pub garbage: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

pub struct FakeHub {
    pub endpoint: String,
    pub requests: Arc<Mutex<Vec<Request>>>,
    pub faults: Arc<Mutex<Faults>>,
}

impl FakeHub {
    /// Serves one repository, `org/repo`; every file over 100 bytes is a large one.
    pub fn start(files: &[(&str, &[u8])], faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files: BTreeMap<String, Vec<u8>> =
            files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        let (requests, faults) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(faults)));
        let hub = Self { endpoint, requests: requests.clone(), faults: faults.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &files, &requests, &faults);
            }
        });
        hub
    }

    pub fn options(&self, cache: &std::path::Path) -> HubOptions {
        HubOptions {
            cache: cache.to_owned(),
            endpoint: self.endpoint.clone(),
            token: None,
            offline: false,
            retries: 2,
            pause: Duration::from_millis(1),
        }
    }

    /// The file names asked for, in order.
    pub fn downloads(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let name = |request: &Request| Some(request.path.split_once("/resolve/")?.1.split_once('/')?.1.to_owned());
        requests.iter().filter_map(name).collect()
    }

    pub fn ranges(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().filter_map(|request| request.range.clone()).collect()
    }
}

fn serve(
    mut stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    requests: &Mutex<Vec<Request>>,
    faults: &Mutex<Faults>,
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(path) = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)) else { return };
    let mut request = Request { path: path.clone(), range: None, token: None };
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap_or_default();
        match name.to_lowercase().as_str() {
            "range" => request.range = Some(value.to_owned()),
            "authorization" => request.token = Some(value.to_owned()),
            _ => {}
        }
    }
    let from = request.range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    requests.lock().unwrap().push(request);
    let mut faults = faults.lock().unwrap();
    if let Some((status, code)) = faults.refuses {
        return head(&mut stream, &format!("{status} No\r\nx-error-code: {code}"), 0);
    }
    if path.starts_with("/api/models/org/repo/revision/") {
        let body = listing(files, faults.wrong_hash).to_string();
        head(&mut stream, "200 OK", body.len());
        let _ = stream.write_all(body.as_bytes());
        return;
    }
    let name = path.strip_prefix(&format!("/org/repo/resolve/{COMMIT}/"));
    let Some(file) = name.and_then(|name| files.get(name)) else {
        return head(&mut stream, "404 Not Found\r\nx-error-code: RepoNotFound", 0);
    };
    let mut file = file.clone();
    if file.len() > 100
        && let Some(garbage) = faults.garbage.take()
    {
        file[..garbage.len()].copy_from_slice(garbage.as_bytes());
    }
    let rest = match from {
        Some(from) if !faults.ignores_range => {
            head(&mut stream, "206 Partial Content", file.len() - from);
            &file[from..]
        }
        _ => {
            head(&mut stream, "200 OK", file.len());
            &file[..]
        }
    };
    let mut end = rest.len();
    if let Some((bytes, times)) = &mut faults.cut
        && *times > 0
        && file.len() > 100
    {
        *times -= 1;
        end = end.min(*bytes);
    }
    let _ = stream.write_all(&rest[..end]);
}

fn head(stream: &mut TcpStream, status: &str, length: usize) {
    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
}

fn listing(files: &BTreeMap<String, Vec<u8>>, wrong: bool) -> serde_json::Value {
    let sibling = |(name, content): (&String, &Vec<u8>)| {
        let sha256 = hex::encode(Sha256::digest(if wrong { b"other" } else { &content[..] }));
        let mut entry =
            json!({"rfilename": name, "size": content.len(), "blobId": &hex::encode(Sha256::digest(content))[..40]});
        if content.len() > 100 {
            entry["lfs"] = json!({"sha256": sha256, "size": content.len(), "pointerSize": 134});
        }
        entry
    };
    json!({"id": "org/repo", "sha": COMMIT, "gated": false, "siblings": files.iter().map(sibling).collect::<Vec<_>>()})
}
