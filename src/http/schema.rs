//! How types that write themselves appear in the OpenAPI document.

use std::borrow::Cow;

use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{OneOfBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::adapter::{AdapterName, Digest, EarlyStopping};

fn text(pattern: &str, example: &str) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).pattern(Some(pattern)).examples([example]).into()
}

impl PartialSchema for AdapterName {
    fn schema() -> RefOr<Schema> {
        text("^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", "joke")
    }
}

impl ToSchema for AdapterName {
    fn name() -> Cow<'static, str> {
        "AdapterName".into()
    }
}

impl PartialSchema for Digest {
    fn schema() -> RefOr<Schema> {
        text("^sha256:[0-9a-f]{64}$", "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")
    }
}

impl ToSchema for Digest {
    fn name() -> Cow<'static, str> {
        "Digest".into()
    }
}

impl PartialSchema for EarlyStopping {
    fn schema() -> RefOr<Schema> {
        let flag = ObjectBuilder::new().schema_type(SchemaType::new(Type::Boolean));
        let never = ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).enum_values(Some(["never"]));
        OneOfBuilder::new().item(flag).item(never).into()
    }
}

impl ToSchema for EarlyStopping {
    fn name() -> Cow<'static, str> {
        "EarlyStopping".into()
    }
}
