//! Who asks, and what that key may do and see.

mod keys;
mod local;
mod may;

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::{header, request};

pub use keys::{Key, Keys, Scope};
pub use may::{Generate, May, Read, Write};

use crate::adapter::{AdapterError, AdapterName};
use crate::config::AuthConfig;

use super::{ApiError, AppState, Code};

/// The one behind a request. Handlers take it first and ask for a scope.
#[derive(Clone, Debug)]
pub struct Caller(Option<Key>);

impl Caller {
    /// One who needs no key.
    pub fn anonymous() -> Self {
        Self(None)
    }

    /// For logs and usage.
    pub fn name(&self) -> &str {
        self.0.as_ref().map_or("anonymous", |key| &key.name)
    }

    /// 403 unless the key has the scope.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        match &self.0 {
            Some(key) if !key.scopes.contains(&scope) => {
                let message = format!("key {} lacks the scope {scope}", key.name);
                Err(ApiError::new(Code::Forbidden, message))
            }
            _ => Ok(()),
        }
    }

    /// Whether the key may know of an adapter.
    pub fn sees(&self, adapter: &AdapterName) -> bool {
        self.0.as_ref().is_none_or(|key| key.sees(adapter.as_str()))
    }

    /// Whether nothing is hidden from the key.
    pub fn sees_everything(&self) -> bool {
        self.0.as_ref().is_none_or(Key::sees_everything)
    }

    /// 404 for what is not visible, in the words for what does not exist.
    pub fn require_sight(&self, adapter: &AdapterName) -> Result<(), ApiError> {
        if self.sees(adapter) { Ok(()) } else { Err(AdapterError::NotFound(adapter.to_string()).into()) }
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, state: &AppState) -> Result<Self, ApiError> {
        if state.keys.is_empty() {
            if !state.config.auth.anonymous {
                local::check(&parts.headers)?;
            }
            return Ok(Self::anonymous());
        }
        let unauthorized = |message: &str| ApiError::new(Code::Unauthorized, message);
        let header = parts.headers.get(header::AUTHORIZATION);
        let header =
            header.ok_or_else(|| unauthorized("a key is needed: send the header authorization: Bearer <key>"))?;
        let (scheme, key) = header.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(unauthorized("the authorization header must be Bearer <key>"));
        }
        let key = state.keys.find(key.trim()).ok_or_else(|| unauthorized("this key is not known"))?;
        tracing::Span::current().record("key", &*key.name);
        Ok(Self(Some(key.clone())))
    }
}

/// Without keys only this machine may reach the server, unless the operator says otherwise.
pub fn check_listen(address: IpAddr, auth: &AuthConfig, keys: &Keys) -> Result<(), String> {
    if auth.anonymous || !keys.is_empty() || address.is_loopback() {
        return Ok(());
    }
    Err(format!(
        "refusing to listen on {address} without keys: everybody who reaches it could publish and delete adapters.\n\
         Listen on 127.0.0.1, name a file of keys (--set auth.keys_file=keys.toml), or, if that is what you want, ask for no keys on any address (--set auth.anonymous=true)"
    ))
}
