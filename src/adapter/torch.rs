//! A single tensor as `torch.save` writes it (zip form, torch 1.6 and later).

use std::io::{Cursor, Read};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use zip::{CompressionMethod, ZipArchive};

use super::AdapterError;
use pickle::Saved;

mod pickle;

/// A pickle of one tensor has a few hundred bytes.
const MAX_PICKLE: u64 = 64 << 10;
const MAX_ENTRIES: usize = 64;

/// The number formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    F32,
    F16,
    Bf16,
}

impl Storage {
    fn width(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// The number at an index; `None` outside the bytes.
    fn at(self, bytes: &[u8], index: usize) -> Option<f32> {
        let start = index.checked_mul(self.width())?;
        let bytes = bytes.get(start..start.checked_add(self.width())?)?;
        Some(match (self, bytes) {
            (Self::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Self::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (Self::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            _ => return None,
        })
    }
}

/// The two-dimensional tensor, or Parameter, in `bytes`, in its own dtype; `file` is what messages call it.
pub(super) fn read(file: &str, bytes: &[u8]) -> Result<Tensor, AdapterError> {
    let bad = |why: String| AdapterError::invalid(format!("{file} is not a tensor saved by torch: {why}"));
    if !bytes.starts_with(b"PK\x03\x04") {
        // The legacy form begins with a pickle; anything else is not torch's at all.
        if bytes.starts_with(b"\x80") {
            return Err(AdapterError::unsupported(format!(
                "{file} has torch's form from before 1.6; convert it with \
                 python -c \"import torch; torch.save(torch.load('{file}', weights_only=True), '{file}')\""
            )));
        }
        return Err(bad("it is not a zip file".into()));
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|why| bad(why.to_string()))?;
    if archive.len() > MAX_ENTRIES {
        return Err(bad(format!("it may have {MAX_ENTRIES} entries, given {}", archive.len())));
    }
    let pickle =
        archive.file_names().find(|name| *name == "data.pkl" || name.ends_with("/data.pkl")).map(str::to_owned);
    let pickle = pickle.ok_or_else(|| bad("it has no data.pkl".into()))?;
    let folder = pickle.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let order = entry(&mut archive, &format!("{folder}byteorder"), 16).map_err(&bad)?;
    if order.is_some_and(|order| order != b"little") {
        return Err(bad("its numbers are not little-endian".into()));
    }
    let program = entry(&mut archive, &pickle, MAX_PICKLE).map_err(&bad)?.unwrap_or_default();
    let saved = pickle::load(&program).map_err(&bad)?;
    let name = format!("{folder}data/{}", saved.key);
    let data = entry(&mut archive, &name, bytes.len() as u64).map_err(&bad)?;
    let data = data.ok_or_else(|| bad(format!("it has no storage {:?}", saved.key)))?;
    let (rows, columns, numbers) = gather(&saved, &data).map_err(&bad)?;
    if numbers.iter().any(|n| !n.is_finite()) {
        return Err(AdapterError::invalid(format!("{file} holds NaN or infinity")));
    }
    Ok(Tensor::from_vec(numbers, (rows, columns), &Device::Cpu)?.to_dtype(saved.storage.dtype())?)
}

/// An entry's content, at most `limit` bytes. torch stores uncompressed: what is compressed is somebody's trick.
fn entry(archive: &mut ZipArchive<Cursor<&[u8]>>, name: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
    let found = match archive.by_name(name) {
        Err(zip::result::ZipError::FileNotFound) => return Ok(None),
        found => found.map_err(|why| why.to_string())?,
    };
    if found.encrypted() || found.compression() != CompressionMethod::Stored {
        return Err("its entries are compressed or encrypted".into());
    }
    let mut content = Vec::new();
    found.take(limit + 1).read_to_end(&mut content).map_err(|why| why.to_string())?;
    if content.len() as u64 > limit {
        return Err(format!("an entry may have {limit} bytes"));
    }
    Ok(Some(content))
}

/// The numbers of a possibly strided view on a storage, row by row.
fn gather(saved: &Saved, data: &[u8]) -> Result<(usize, usize, Vec<f32>), String> {
    let (&[rows, columns], &[down, right]) = (&saved.shape[..], &saved.strides[..]) else {
        return Err(format!("it must have two dimensions, given {:?}", saved.shape));
    };
    let held = data.len() / saved.storage.width();
    let wanted = rows.checked_mul(columns).filter(|n| *n > 0 && *n <= held);
    let wanted = wanted.ok_or_else(|| format!("shape {:?} does not fit a storage of {held} numbers", saved.shape))?;
    let mut numbers = Vec::with_capacity(wanted);
    for row in 0..rows {
        for column in 0..columns {
            let index = row.checked_mul(down).zip(column.checked_mul(right));
            let index = index.and_then(|(down, right)| saved.offset.checked_add(down)?.checked_add(right));
            let number = index.and_then(|index| saved.storage.at(data, index));
            numbers.push(number.ok_or("its view reaches beyond its storage")?);
        }
    }
    Ok((rows, columns, numbers))
}
