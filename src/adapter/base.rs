//! Which of the server's bases an adapter belongs to.

use std::sync::Arc;

use super::{AdapterError, SiteMap};

/// Reads against the base that is meant: `asked` (the metadata's), else the one that answers to `saved` (the file's),
/// else the only one that `read` succeeds on.
pub(super) fn choose<T>(
    bases: &[Arc<SiteMap>],
    asked: Option<&str>,
    saved: Option<&str>,
    read: impl Fn(&SiteMap) -> Result<T, AdapterError>,
) -> Result<T, AdapterError> {
    let answering = |name: &str| bases.iter().filter(|base| base.answers_to(name)).collect::<Vec<_>>();
    if let Some(name) = asked {
        let named = answering(name);
        if named.is_empty() {
            return Err(AdapterError::invalid(format!(
                "metadata.base {:?} is not served; {}",
                cut(name),
                served(bases)
            )));
        }
        return only(&named, read);
    }
    let named = saved.map(answering).unwrap_or_default();
    if named.is_empty() {
        return only(&bases.iter().collect::<Vec<_>>(), read).map_err(|error| explain(error, bases, saved));
    }
    only(&named, read)
}

/// The reading against the one base on which it succeeds.
fn only<T>(bases: &[&Arc<SiteMap>], read: impl Fn(&SiteMap) -> Result<T, AdapterError>) -> Result<T, AdapterError> {
    if let [base] = bases {
        return read(base);
    }
    let mut found: Option<(&str, T)> = None;
    let mut reasons = Vec::new();
    for base in bases {
        match read(base) {
            Ok(_) if found.is_some() => {
                let first = found.map(|(name, _)| name).unwrap_or_default();
                return Err(AdapterError::invalid(format!(
                    "the adapter fits more than one base ({first}, {}): say which in metadata.base",
                    base.base
                )));
            }
            Ok(adapter) => found = Some((&base.base, adapter)),
            // The server's own failures are not a reason to look for another base.
            Err(error @ (AdapterError::Tensor(_) | AdapterError::Store(_))) => return Err(error),
            Err(error) => reasons.push(format!("{}: {error}", base.base)),
        }
    }
    match found {
        Some((_, adapter)) => Ok(adapter),
        None => Err(AdapterError::invalid(format!("the adapter fits none of the bases. {}", reasons.join(". ")))),
    }
}

/// Adds to a refusal that the base was guessed.
fn explain(error: AdapterError, bases: &[Arc<SiteMap>], saved: Option<&str>) -> AdapterError {
    let Some(saved) = saved else { return error };
    let note = |why: String| {
        format!("{why} (the adapter was saved for {:?}, which no base here is called; {})", cut(saved), served(bases))
    };
    match error {
        AdapterError::Invalid(why) => AdapterError::Invalid(note(why)),
        AdapterError::Unsupported(why) => AdapterError::Unsupported(note(why)),
        other => other,
    }
}

fn served(bases: &[Arc<SiteMap>]) -> String {
    let names: Vec<&str> = bases.iter().map(|base| base.base.as_str()).collect();
    if names.is_empty() { "no base is served".into() } else { format!("the bases are {}", names.join(", ")) }
}

fn cut(name: &str) -> String {
    name.chars().take(160).collect()
}
