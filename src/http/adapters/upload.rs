//! The multipart form of an upload.

use std::sync::Arc;

use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::http::StatusCode;

use crate::adapter::{AdapterError, Metadata, Package, archive};
use crate::http::{ApiError, Code};

/// File names with their content, as they came.
pub type Files = Vec<(String, Arc<[u8]>)>;

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
        let name = field.file_name().unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(ApiError::validation("files", "a part named files must have a filename, given none"));
        }
        let bytes = field.bytes().await.map_err(refuse)?;
        self.files.push((name, Arc::from(&bytes[..])));
        Ok(())
    }

    /// The adapter among the files, unpacked where they came in an archive. Takes time: for off the async threads.
    pub fn into_package(self, max_bytes: u64) -> Result<Package, ApiError> {
        package(self.files, self.metadata, max_bytes)
    }
}

/// The adapter among files, or in the one archive.
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
