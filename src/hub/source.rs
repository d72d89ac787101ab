//! What an operator or client writes as a source.

use std::path::PathBuf;

use super::HubError;

/// A parsed source.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A folder in Hugging Face's layout.
    Folder(PathBuf),
    /// One GGUF file.
    Gguf(PathBuf),
    /// A folder with config.json, for random weights.
    Dummy(PathBuf),
    Hub(Repository),
}

/// A repository on the hub.
#[derive(Clone, Debug, PartialEq)]
pub struct Repository {
    /// `org/repo`.
    pub name: String,
    /// A branch, tag or commit.
    pub revision: String,
    /// One GGUF file of several.
    pub file: Option<String>,
}

impl Source {
    /// Reads `folder`, `file.gguf`, `hf://org/repo[@revision]`, `hf://org/repo/file.gguf[@revision]` or `dummy://folder`.
    pub fn parse(source: &str) -> Result<Self, HubError> {
        if let Some(rest) = source.strip_prefix("hf://") {
            return Repository::parse(rest).map(Self::Hub);
        }
        if let Some(folder) = source.strip_prefix("dummy://") {
            return Ok(Self::Dummy(folder.into()));
        }
        if source.is_empty() || source.contains("://") {
            let known = "a folder, a .gguf file, hf://org/repo[@revision] or dummy://folder is expected";
            return Err(HubError::Source(format!("`{source}` is not a source: {known}")));
        }
        let path = PathBuf::from(source);
        let gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        if gguf && !path.is_dir() { Ok(Self::Gguf(path)) } else { Ok(Self::Folder(path)) }
    }
}

impl Repository {
    fn parse(text: &str) -> Result<Self, HubError> {
        let wrong = || {
            let form = "hf://org/repo[@revision] or hf://org/repo/file.gguf[@revision] is expected";
            HubError::Source(format!("`hf://{text}` is not a repository: {form}"))
        };
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts: Vec<&str> = path.split('/').collect();
        let revision_parts = revision.split('/');
        if !parts.iter().copied().chain(revision_parts).all(is_name) {
            return Err(wrong());
        }
        let (name, file) = match parts[..] {
            // Some old repositories have no organisation.
            [repo] => (repo.to_owned(), None),
            [org, repo] => (format!("{org}/{repo}"), None),
            [org, repo, file] if file.ends_with(".gguf") => (format!("{org}/{repo}"), Some(file.to_owned())),
            _ => return Err(wrong()),
        };
        Ok(Self { name, revision: revision.to_owned(), file })
    }
}

/// Whether a text can be one part of a path in the cache and in a URL, and nothing more.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty() && text.chars().all(plain) && text.chars().any(|c| c != '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(name: &str, revision: &str, file: Option<&str>) -> Source {
        Source::Hub(Repository { name: name.into(), revision: revision.into(), file: file.map(str::to_owned) })
    }

    #[test]
    fn every_form_of_a_source_is_read() {
        for (text, source) in [
            ("models/smollm2", Source::Folder("models/smollm2".into())),
            ("models/a.GGUF", Source::Gguf("models/a.GGUF".into())),
            ("dummy://tests/base", Source::Dummy("tests/base".into())),
            ("hf://org/re-po.1", hub("org/re-po.1", "main", None)),
            ("hf://gpt2", hub("gpt2", "main", None)),
            ("hf://org/repo@refs/pr/1", hub("org/repo", "refs/pr/1", None)),
            ("hf://org/repo/q4.gguf@v1", hub("org/repo", "v1", Some("q4.gguf"))),
        ] {
            assert_eq!(Source::parse(text).unwrap(), source);
        }
    }

    #[test]
    fn what_would_leave_the_cache_or_the_url_is_refused() {
        for text in [
            "",
            "s3://b/p",
            "hf://",
            "hf://a/../b",
            "hf://a/b@../../x",
            "hf://a/b@",
            "hf://a/b?x",
            "hf://a/b/c/d",
            "hf://../b",
        ] {
            assert!(matches!(Source::parse(text), Err(HubError::Source(_))), "{text}");
        }
    }
}
