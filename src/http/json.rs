//! JSON bodies of the native routes: strict, with errors that name the field.

use std::error::Error;

use axum::RequestExt;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{ApiError, Code};

/// The longest JSON body: what a parsed tree takes is many times its text. Uploads of files are not JSON.
const MOST_BYTES: usize = 32 << 20;
/// From this length on, parsing takes long enough to be kept off the async threads.
const LONG: usize = 64 << 10;

/// A parsed JSON body. Malformed JSON is 400, another content type 415, what does not fit the type 422.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + Send + 'static, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::new(
                Code::UnsupportedMediaType,
                "the body must be sent with content-type: application/json",
            ));
        }
        let bytes = read(request).await?;
        if bytes.len() < LONG {
            return parse(&bytes).map(Self);
        }
        tokio::task::spawn_blocking(move || parse(&bytes)).await.map_err(ApiError::internal)?.map(Self)
    }
}

/// Whether a request says that its body is JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mime = content_type.and_then(|text| text.parse::<mime::Mime>().ok());
    mime.is_some_and(|mime| {
        mime.type_() == "application"
            && (mime.subtype() == "json" || mime.suffix().is_some_and(|suffix| suffix == "json"))
    })
}

/// Reads a JSON object, with the path to what is wrong.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let malformed = |error| ApiError::new(Code::Malformed, format!("the body is not valid JSON: {error}"));
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        // What does not fit the type may come before what is not even JSON.
        match serde_json::from_slice::<IgnoredAny>(bytes) {
            Err(error) => malformed(error),
            Ok(_) => misfit(&error.path().to_string(), error.inner()),
        }
    })?;
    deserializer.end().map_err(malformed)?;
    // serde reads a list as the fields of a struct in their order: nobody means that.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::new(Code::Validation, "the body must be a JSON object"));
    }
    Ok(value)
}

fn misfit(path: &str, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    // serde says it of the struct; the client is told the field.
    let field =
        ["unknown field `", "missing field `"].iter().find_map(|start| text.strip_prefix(start)?.split('`').next());
    let param = match (path, field) {
        (".", Some(field)) => field.to_owned(),
        (path, Some(field)) if !path.ends_with(field) => format!("{path}.{field}"),
        (".", None) => return ApiError::new(Code::Validation, text),
        (path, _) => path.to_owned(),
    };
    ApiError::validation(&param, format!("{param}: {text}"))
}

/// Reads a body that is to be JSON; never more of it than JSON may have.
pub async fn read(request: Request) -> Result<Bytes, ApiError> {
    let body = Limited::new(request.with_limited_body().into_body(), MOST_BYTES);
    let body = body.collect().await.map_err(|error| match over_limit(&*error) {
        true => {
            let message =
                format!("a JSON body may hold at most {MOST_BYTES} bytes, or limits.body_bytes if that is less");
            ApiError::new(Code::TooLarge, message)
        }
        false => ApiError::new(Code::Malformed, "the body ended before it was complete"),
    })?;
    Ok(body.to_bytes())
}

fn over_limit(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(over_limit)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::{Code, parse};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        inner: Option<Inner>,
        needed: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        count: usize,
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_path() {
        for (body, param, part) in [
            (r#"{"needed": "", "extra": 1}"#, "extra", "unknown field"),
            (r#"{"needed": "", "inner": {"cuont": 1}}"#, "inner.cuont", "expected `count`"),
            (r#"{"needed": "", "inner": {}}"#, "inner.count", "missing field"),
            (r#"{"needed": "", "inner": {"count": -1}}"#, "inner.count", "-1"),
            (r#"{"inner": null}"#, "needed", "missing field"),
        ] {
            let error = parse::<Outer>(body.as_bytes()).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (Code::Validation, Some(param)), "{body}");
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn a_list_is_no_object() {
        assert_eq!(parse::<Outer>(b"[null, \"a\"]").unwrap_err().code, Code::Validation);
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        for body in
            ["", "{", "[1,", "{\"extra\": ", "{\"needed\": \"\"} trailing", "nonsense", "{\"needed\": \"\u{1}\"}"]
        {
            assert_eq!(parse::<Outer>(body.as_bytes()).unwrap_err().code, Code::Malformed, "{body}");
        }
    }
}
