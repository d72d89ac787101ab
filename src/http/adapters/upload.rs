//! The multipart form of an upload.

use axum::body::Bytes;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::http::StatusCode;

use crate::adapter::{AdapterError, Metadata, Package, archive};
use crate::http::{ApiError, Code};

/// File names with their content, as they came.
pub type Files = Vec<(String, Bytes)>;

/// More than any real metadata, which is parsed where requests are read.
const MOST_TEXT: usize = 1 << 20;

/// What the parts said.
#[derive(Debug, Default)]
pub struct Upload {
    pub id: String,
    pub metadata: Metadata,
    /// As sent: files, or one archive.
    pub files: Files,
}

impl Upload {
    /// Reads all parts.
    pub async fn read(mut form: Multipart) -> Result<Self, ApiError> {
        let mut upload = Self::default();
        let (mut id, mut metadata) = (None, None);
        while let Some(field) = form.next_field().await.map_err(refuse)? {
            match field.name().unwrap_or_default() {
                "id" => once(&mut id, "id", parse_id(&small(field, "id").await?)?)?,
                "metadata" => once(&mut metadata, "metadata", parse_metadata(&small(field, "metadata").await?)?)?,
                "files" => upload.add_file(field).await?,
                other => {
                    let message = format!("parts are id, files (one or several) and metadata, given {other:?}");
                    return Err(ApiError::validation(other, message));
                }
            }
        }
        upload.metadata = metadata.unwrap_or_default();
        upload.id = id.ok_or_else(|| ApiError::validation("id", "the part id is needed, given none"))?;
        if upload.files.is_empty() {
            let message = "at least one part named files is needed (an adapter's files, or one .zip or .tar.gz of its folder), given none";
            return Err(ApiError::validation("files", message));
        }
        Ok(upload)
    }

    async fn add_file(&mut self, field: Field<'_>) -> Result<(), ApiError> {
        let name = field.file_name().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(ApiError::validation("files", "a part named files must have a filename, given none"));
        }
        let bytes = field.bytes().await.map_err(refuse)?;
        self.files.push((name, bytes));
        Ok(())
    }
}

/// Notes a part that may come once.
fn once<T>(seen: &mut Option<T>, name: &str, value: T) -> Result<(), ApiError> {
    match seen.replace(value) {
        None => Ok(()),
        Some(_) => Err(ApiError::validation(name, format!("the part {name} may come once, given again"))),
    }
}

/// A part of few bytes.
async fn small(mut field: Field<'_>, name: &str) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(refuse)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MOST_TEXT {
            let message = format!("the part {name} may hold at most {MOST_TEXT} bytes, given more");
            return Err(ApiError::new(Code::TooLarge, message).at(name));
        }
    }
    Ok(bytes)
}

fn parse_id(bytes: &[u8]) -> Result<String, ApiError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ApiError::validation("id", "the part id must be UTF-8 text"))?;
    Ok(text.trim().to_owned())
}

fn parse_metadata(bytes: &[u8]) -> Result<Metadata, ApiError> {
    crate::http::json::parse(bytes).map_err(|error| {
        let param = error.param.as_ref().map_or("metadata".to_owned(), |param| format!("metadata.{param}"));
        ApiError { message: format!("metadata: {}", error.message), ..error.at(param) }
    })
}

/// The adapter among files, or in the one archive. Takes time and, for an archive, memory for what is in it: for off
/// the async threads, and in turn.
pub fn package(files: Files, metadata: Metadata, max_bytes: u64) -> Result<Package, ApiError> {
    let at_files = |error: AdapterError| ApiError::from(error).at("files");
    let Some((name, archive)) = files.iter().find(|(name, _)| is_archive(name)) else {
        return Package::from_files(files, metadata).map_err(at_files);
    };
    if files.len() > 1 {
        let message = format!("an archive must come alone, given {name:?} and {} more files", files.len() - 1);
        return Err(ApiError::validation("files", message));
    }
    let files = archive::unpack(archive, max_bytes).map_err(at_files)?;
    Package::from_files(files, metadata).map_err(at_files)
}

/// By its name.
pub fn is_archive(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [".zip", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end))
}

fn refuse(error: MultipartError) -> ApiError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(Code::TooLarge, "the body is larger than limits.body_bytes allows")
        }
        _ => ApiError::new(Code::Malformed, format!("the multipart body cannot be read: {}", error.body_text())),
    }
}
