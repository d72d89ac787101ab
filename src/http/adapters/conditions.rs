//! `If-Match` and `If-None-Match`.

use axum::http::{HeaderMap, HeaderName, header};

use crate::adapter::{AdapterError, AdapterName, AdapterRef, AdapterRegistry, Digest, PublishIf, Selector};
use crate::http::ApiError;

/// What must hold for a change of what is there; `If-None-Match` is for publications.
pub fn change(headers: &HeaderMap, name: &AdapterName, registry: &AdapterRegistry) -> Result<PublishIf, ApiError> {
    match publication(headers, name, registry)? {
        PublishIf::Absent => {
            let message = "If-None-Match is for POST /v1/adapters; a change takes If-Match";
            Err(ApiError::validation("If-None-Match", message))
        }
        condition => Ok(condition),
    }
}

/// What must hold for a publication to take effect.
pub fn publication(headers: &HeaderMap, name: &AdapterName, registry: &AdapterRegistry) -> Result<PublishIf, ApiError> {
    let if_match = text(headers, header::IF_MATCH)?;
    let if_none_match = text(headers, header::IF_NONE_MATCH)?;
    match (if_match, if_none_match) {
        (None, None) => Ok(PublishIf::Always),
        (Some(_), Some(_)) => {
            Err(ApiError::validation("If-Match", "If-Match and If-None-Match exclude each other, given both"))
        }
        (None, Some(value)) if is_any(&value) => Ok(PublishIf::Absent),
        (None, Some(value)) => {
            let message = format!("If-None-Match must be * (the name is not taken yet), given {value:?}");
            Err(ApiError::validation("If-None-Match", message))
        }
        (Some(value), None) => {
            let current = || registry.show(&AdapterRef { name: name.clone(), version: Selector::Current });
            if is_any(&value) {
                return match current() {
                    Ok(info) => Ok(PublishIf::Current(info.digest)),
                    Err(AdapterError::NotFound(_)) => {
                        Err(AdapterError::Conflict { name: name.to_string(), current: None }.into())
                    }
                    Err(error) => Err(error.into()),
                };
            }
            let digests = digests(&value)?;
            let [first, further @ ..] = digests.as_slice() else {
                return Err(ApiError::validation("If-Match", "If-Match must name a digest, given an empty list"));
            };
            // Of several, the one that holds now; the registry compares again under its own lock.
            let now = if further.is_empty() { None } else { current().ok().map(|info| info.digest) };
            Ok(PublishIf::Current(now.filter(|now| digests.contains(now)).unwrap_or(*first)))
        }
    }
}

/// Whether a header lists a digest (or `*`).
pub fn names_digest(headers: &HeaderMap, header: HeaderName, digest: &Digest) -> bool {
    let Ok(Some(value)) = text(headers, header) else { return false };
    // A proxy that compresses makes tags weak, and weak ones are enough for a look.
    is_any(&value) || digests(&value.replace("W/", "")).is_ok_and(|digests| digests.contains(digest))
}

/// A header's value; that of several lines is one list.
fn text(headers: &HeaderMap, header: HeaderName) -> Result<Option<String>, ApiError> {
    let lines = headers.get_all(&header).iter().map(|line| line.to_str());
    let lines = lines.collect::<Result<Vec<_>, _>>();
    let lines = lines.map_err(|_| ApiError::validation(header.as_str(), format!("{header} must be ASCII text")))?;
    Ok((!lines.is_empty()).then(|| lines.join(", ")))
}

fn is_any(list: &str) -> bool {
    list.split(',').any(|tag| tag.trim() == "*")
}

fn digests(list: &str) -> Result<Vec<Digest>, ApiError> {
    let tags = list.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    tags.map(|tag| {
        let digest = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).and_then(|tag| tag.parse().ok());
        digest.ok_or_else(|| {
            let message =
                format!("a condition must be a version's ETag, \"sha256:<64 hex digits>\" in quotes, given {tag:?}");
            ApiError::validation("If-Match", message)
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::digests;

    #[test]
    fn etags_are_read_one_or_several_and_strong_only() {
        let digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_eq!(digests(&format!("\"{digest}\"")).unwrap(), [digest.parse().unwrap()]);
        assert_eq!(digests(&format!("\"{digest}\", \"{}\"", &digest[7..])).unwrap().len(), 2);
        for bad in [digest.to_owned(), format!("W/\"{digest}\""), "\"1\"".into()] {
            assert!(digests(&bad).is_err(), "{bad}");
        }
    }
}
