//! Scopes as types, so that a handler's signature says what it needs.

use std::marker::PhantomData;
use std::ops::Deref;

use axum::extract::FromRequestParts;
use axum::http::request;

use crate::http::{ApiError, AppState, Caller};

use super::Scope;

/// A caller whose key has a scope. Asked for before the body is read: who may not do a thing need not be heard.
pub struct May<S>(Caller, PhantomData<S>);

/// A scope's name among types.
pub trait Permission {
    const SCOPE: Scope;
}

/// [`Scope::Read`].
pub struct Read;
/// [`Scope::Generate`].
pub struct Generate;
/// [`Scope::Write`].
pub struct Write;

impl Permission for Read {
    const SCOPE: Scope = Scope::Read;
}

impl Permission for Generate {
    const SCOPE: Scope = Scope::Generate;
}

impl Permission for Write {
    const SCOPE: Scope = Scope::Write;
}

impl<S> Deref for May<S> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<S: Permission> FromRequestParts<AppState> for May<S> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut request::Parts, state: &AppState) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.require(S::SCOPE)?;
        Ok(Self(caller, PhantomData))
    }
}
