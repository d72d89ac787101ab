//! The multipart form of an upload.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::http::StatusCode;

use crate::adapter::{Metadata, archive};
use crate::http::{ApiError, Code};

/// File name to content.
pub type Files = BTreeMap<String, Arc<[u8]>>;

/// What the parts said.
#[derive(Debug, Default)]
pub struct Upload {
    pub id: String,
    pub metadata: Metadata,
    /// As sent: files, or one archive.
    files: Files,
}

impl Upload {
    /// Reads all parts.
    pub async fn read(mut form: Multipart) -> Result<Self, ApiError> {
        let mut upload = Self::default();
        let mut id = None;
        while let Some(field) = form.next_field().await.map_err(refuse)? {
            match field.name().unwrap_or_default() {
                "id" => id = Some(field.text().await.map_err(refuse)?.trim().to_owned()),
                "metadata" => {
                    let bytes = field.bytes().await.map_err(refuse)?;
                    upload.metadata = crate::http::json::parse(&bytes).map_err(|error| {
                        let param =
                            error.param.as_ref().map_or("metadata".to_owned(), |param| format!("metadata.{param}"));
                        ApiError { message: format!("metadata: {}", error.message), ..error.at(param) }
                    })?;
                }
                "files" => upload.add_file(field).await?,
                other => {
                    let message = format!("parts are id, files (one or several) and metadata, given {other:?}");
                    return Err(ApiError::validation(other, message));
                }
            }
        }
        upload.id = id.ok_or_else(|| ApiError::validation("id", "the part id is needed, given none"))?;
        if upload.files.is_empty() {
            let message = "at least one part named files is needed (an adapter's files, or one .zip or .tar.gz of its folder), given none";
            return Err(ApiError::validation("files", message));
        }
        Ok(upload)
    }

    async fn add_file(&mut self, field: Field<'_>) -> Result<(), ApiError> {
        let name = field.file_name().unwrap_or_default();
        // Some clients send the whole path.
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(ApiError::validation("files", "a part named files must have a filename, given none"));
        }
        let bytes = field.bytes().await.map_err(refuse)?;
        if self.files.insert(name.clone(), Arc::from(&bytes[..])).is_some() {
            return Err(ApiError::validation("files", format!("the file {name:?} was sent twice")));
        }
        Ok(())
    }

    /// The adapter's files, unpacked where they came in an archive. Takes time: for off the async threads.
    pub fn into_files(self, max_bytes: u64) -> Result<Files, ApiError> {
        unpacked(self.files, max_bytes)
    }
}

/// Files as they are, or the content of the one archive among them.
pub fn unpacked(files: Files, max_bytes: u64) -> Result<Files, ApiError> {
    let Some(name) = files.keys().find(|name| is_archive(name)) else { return Ok(files) };
    if files.len() > 1 {
        let message = format!("an archive must come alone, given {name:?} and {} more files", files.len() - 1);
        return Err(ApiError::validation("files", message));
    }
    archive::unpack(&files[name], max_bytes).map_err(|error| ApiError::from(error).at("files"))
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
