//! Speaks HTTP: parses, authorises, calls, answers. One file per resource; `/openapi.json` is made from the same list of routes.

mod adapters;
mod auth;
mod base;
mod bases;
mod classify;
mod error;
mod generate;
mod health;
pub mod inference;
mod inputs;
mod json;
mod loading;
mod measure;
mod metrics;
mod observe;
mod openapi;
mod page;
mod path;
mod router;
mod schema;
mod state;
mod uploads;

pub use auth::{Caller, Key, Keys, Scope, check_listen};
pub use base::{Base, BaseInfo, Bases};
pub use classify::{ClassifyRequest, Labels};
pub use error::{ApiError, Code, ErrorBody, ErrorDetail};
pub use generate::{ChatMessage, GenerateRequest, StreamEvent};
pub use inference::accept as accept_adapter;
pub use inputs::{InputItem, Inputs};
pub use json::Json;
pub use loading::while_loading;
pub use measure::describe as describe_metrics;
pub use page::{List, Page};
pub use path::Path;
pub use router::{document, router};
pub use state::{AppState, Parts};
