//! What the log says once the server is up: what is there, and what to try.

use std::net::SocketAddr;

use crate::adapter::{AdapterInfo, TaskKind};
use crate::http::AppState;

/// How many adapters are named one by one.
const NAMED: usize = 20;

/// Logs what was loaded and the next command. Blocks: the store is looked at.
pub fn greet(state: &AppState, address: SocketAddr) {
    let (adapters, more) = state.registry.list(None, NAMED);
    for adapter in &adapters {
        tracing::info!(id = %adapter.id, version = adapter.version, kind = %adapter.kind, base = adapter.base, "adapter");
    }
    if more {
        tracing::info!("further adapters: GET /v1/adapters lists them");
    }
    if state.config.auth.anonymous && !address.ip().is_loopback() {
        tracing::warn!("auth.anonymous: everybody who reaches {address} can publish and delete adapters");
    }
    tracing::info!("ready on http://{address}. Try:\n  {}", next_command(state, address, adapters.first()));
}

fn next_command(state: &AppState, address: SocketAddr, adapter: Option<&AdapterInfo>) -> String {
    let key = if state.keys.is_empty() { "" } else { " -H \"authorization: Bearer $KEY\"" };
    let (route, body) = match adapter {
        Some(adapter) if adapter.task == TaskKind::Classify => {
            ("classify", format!(r#"{{"adapter_id": "{}", "input": "What a day"}}"#, adapter.id))
        }
        Some(adapter) => {
            let body = format!(r#"{{"adapter_id": "{}", "input": "Once upon a time", "stream": true}}"#, adapter.id);
            ("generate", body)
        }
        None => match state.bases.iter().find(|base| base.info.causal) {
            Some(base) => {
                let body = format!(r#"{{"base": "{}", "input": "Once upon a time", "stream": true}}"#, base.name());
                ("generate", body)
            }
            None => return format!("curl http://{address}/v1/bases{key}"),
        },
    };
    format!("curl -N http://{address}/v1/{route}{key} -H 'content-type: application/json' -d '{body}'")
}
