//! A client of a running server.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

/// Where the server is and who asks.
#[derive(Clone, Debug, Args)]
pub struct Server {
    /// The server's address
    #[arg(long, global = true, env = "REPERTOIRE_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// The key, if the server asks for one
    #[arg(long, global = true, env = "REPERTOIRE_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<String>,
}

/// A connection to it.
pub struct Client {
    agent: Agent,
    server: Server,
}

/// What the server said no with.
#[derive(Debug, thiserror::Error)]
#[error("{message}{}", hint(.code))]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub param: Option<String>,
}

/// What to do about it.
fn hint(code: &str) -> &'static str {
    match code {
        "adapter_not_found" => {
            "\n`repertoire adapters` lists what there is, `repertoire push ID PATH` publishes a new one"
        }
        "unauthorized" => "\ngive the key with --key KEY or in REPERTOIRE_KEY",
        "draining" | "loading" | "overloaded" => "\ntry again in a moment",
        _ => "",
    }
}

impl Server {
    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client of it that uses connections again.
    pub fn client(self) -> Client {
        // As many threads as a benchmark has may use the client at once.
        self.client_that_keeps(usize::MAX)
    }

    /// A client that connects for each request: some servers, llama.cpp's among them, say that a connection stays and hang
    /// up after a stream all the same. What is sent on it just then is lost.
    pub fn fresh_client(self) -> Client {
        self.client_that_keeps(0)
    }

    fn client_that_keeps(self, connections: usize) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            // Servers hang up on connections that nobody uses, many after five seconds.
            .max_idle_age(Duration::from_secs(3))
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections);
        // A proxy that is configured for the world has no way to this machine.
        let local = ["//localhost", "//127.", "//[::1]"].iter().any(|host| self.url.contains(host));
        let config = if local { config.proxy(None) } else { config };
        Client { agent: config.build().new_agent(), server: self }
    }
}

impl Client {
    /// The JSON answer of a request without a body.
    pub fn call(&self, method: &str, path: &str) -> Result<Value> {
        let request = self.request(method, path).body(()).context("not a valid request")?;
        json(self.answered(self.agent.run(request))?)
    }

    /// The answer of a request with a JSON body, to be read as it comes.
    pub fn ask(&self, path: &str, body: &Value) -> Result<Response<Body>> {
        let body = serde_json::to_vec(body)?;
        self.send(path, "application/json", &body)
    }

    /// The answer of a request with any body.
    pub fn send(&self, path: &str, content_type: &str, body: &[u8]) -> Result<Response<Body>> {
        let request = self
            .request("POST", path)
            .header("content-type", content_type)
            // The server says no before the body is sent; else it would hang up in the middle, and its reason be lost.
            .header("expect", "100-continue")
            .body(body)
            .context("not a valid request")?;
        self.answered(self.agent.run(request))
    }

    fn request(&self, method: &str, path: &str) -> ureq::http::request::Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.server.url.trim_end_matches('/')));
        match &self.server.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    fn answered(&self, result: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        let mut response = result.map_err(|error| {
            let next = format!(
                "is a server running at {}? `repertoire serve` starts one, --url names another",
                self.server.url
            );
            anyhow!("{error}\n{next}")
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let text = response.body_mut().read_to_string().unwrap_or_default();
        match serde_json::from_str::<Value>(&text).ok().as_ref().and_then(refusal) {
            Some(refusal) => Err(refusal.into()),
            None => bail!(
                "{} answered {}: {}",
                self.server.url,
                response.status(),
                text.chars().take(200).collect::<String>()
            ),
        }
    }
}

/// The refusal in an error's body.
pub fn refusal(body: &Value) -> Option<Refusal> {
    let error = body.get("error")?;
    let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Refusal { code: text("code")?, message: text("message")?, param: text("param") })
}

/// The JSON in an answer; null where there is none (204).
pub fn json(mut response: Response<Body>) -> Result<Value> {
    if response.status() == 204 {
        return Ok(Value::Null);
    }
    let text = response.body_mut().with_config().limit(u64::MAX).read_to_string().context("the answer broke off")?;
    serde_json::from_str(&text).context("the answer is not JSON: is this a repertoire server?")
}

/// A name as a part of a path.
pub fn segment(id: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@' | b':');
    id.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn a_name_cannot_leave_its_part_of_a_path() {
        assert_eq!(segment("joke@sha256:00"), "joke@sha256:00");
        assert_eq!(segment("../a?b#c й"), "..%2Fa%3Fb%23c%20%D0%B9");
    }
}
