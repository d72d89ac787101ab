//! The tensors of a safetensors file, taken out one by one so that what nobody wants shows at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{AdapterError, pieces};

/// A header describes tensors in about 150 bytes each; real files stay far below this.
const MAX_HEADER: u64 = 16 << 20;

/// Tensors by name, still in the bytes of their file.
#[derive(Debug)]
pub(super) struct TensorFile<'a> {
    views: BTreeMap<String, View<'a>>,
}

/// One tensor in the bytes of its file.
#[derive(Debug)]
pub(super) struct View<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: &'a [u8],
    /// Whether all numbers are, where they are floats.
    finite: bool,
}

impl<'a> TensorFile<'a> {
    /// Reads the header of `bytes`; `file` is what messages call it.
    pub(super) fn parse(file: &str, bytes: &'a [u8]) -> Result<Self, AdapterError> {
        let bad =
            |why: &dyn fmt::Display| AdapterError::invalid(format!("{file} is not a valid safetensors file: {why}"));
        check_header(bytes).map_err(|why| bad(&why))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|why| bad(&why))?;
        let view = |(name, view): (&str, TensorView<'a>)| View {
            name: name.to_owned(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data(),
            finite: true,
        };
        let mut views: Vec<View<'a>> = tensors.iter().map(view).collect();
        let look = |view: &mut View<'_>| view.finite = all_finite(view.dtype, view.data);
        if bytes.len() < pieces::PIECE {
            views.iter_mut().for_each(look);
        } else {
            pieces::each(views.iter_mut(), look);
        }
        Ok(Self { views: views.into_iter().map(|view| (view.name.clone(), view)).collect() })
    }

    /// Names not yet taken, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.views.keys().map(String::as_str)
    }

    /// Whether a tensor of this name is still there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.views.contains_key(name)
    }

    /// Takes a tensor out.
    pub(super) fn take(&mut self, name: &str) -> Option<View<'a>> {
        self.views.remove(name)
    }

    /// Gives a tensor another name; under a taken name it must be the same tensor.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), AdapterError> {
        let Some(mut view) = self.views.remove(from) else { return Ok(()) };
        match self.views.get(to) {
            Some(other) if other.dtype != view.dtype || other.shape != view.shape || other.data != view.data => {
                Err(AdapterError::invalid(format!("tensors {from} and {to} should be the same, but differ")))
            }
            Some(_) => Ok(()),
            None => {
                view.name = to.to_owned();
                self.views.insert(view.name.clone(), view);
                Ok(())
            }
        }
    }

    /// Takes a tensor out that must be there.
    pub(super) fn need(&mut self, name: &str) -> Result<View<'a>, AdapterError> {
        self.take(name).ok_or_else(|| AdapterError::invalid(format!("tensor {name} is missing")))
    }

    /// Refuses the file unless all of `names` are in it.
    pub(super) fn require(&self, names: &[String]) -> Result<(), AdapterError> {
        let missing: Vec<&str> = names.iter().map(String::as_str).filter(|name| !self.has(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(AdapterError::invalid(format!(
            "the configuration asks for tensors that the file does not have: {}",
            few(&missing)
        )))
    }
}

impl View<'_> {
    /// The name in the file.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The shape in the file.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// As a tensor of `shape` in the file's own f32, f16 or bf16; `why` says where the shape comes from.
    pub(super) fn tensor(&self, shape: &[usize], why: &str) -> Result<Tensor, AdapterError> {
        if self.shape != shape {
            return Err(AdapterError::invalid(format!(
                "tensor {} has shape {:?}, which must be {shape:?} ({why})",
                self.name, self.shape
            )));
        }
        let dtype = match self.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(AdapterError::unsupported(format!(
                    "tensor {} is {other:?}; f32, f16 and bf16 can be applied",
                    self.name
                )));
            }
        };
        if !self.finite {
            return Err(AdapterError::invalid(format!("tensor {} holds NaN or infinity", self.name)));
        }
        Ok(Tensor::from_raw_buffer(self.data, dtype, shape, &Device::Cpu)?)
    }

    /// As an f32 tensor of `shape`, for numbers that are computed with when the adapter is read.
    pub(super) fn widened(&self, shape: &[usize], why: &str) -> Result<Tensor, AdapterError> {
        Ok(self.tensor(shape, why)?.to_dtype(DType::F32)?)
    }
}

/// Whether no f32, f16 or bf16 has all exponent bits set.
fn all_finite(dtype: Dtype, data: &[u8]) -> bool {
    // A piece is looked at whole: leaving at the first bad number would keep the loop from being vectorised.
    let halves = |exponent: u16| {
        let bad = |b: &[u8; 2]| u16::from_le_bytes(*b) & exponent == exponent;
        data.as_chunks().0.chunks(1024).all(|piece| !piece.iter().fold(false, |any, b| any | bad(b)))
    };
    match dtype {
        Dtype::F32 => {
            let bad = |b: &[u8; 4]| u32::from_le_bytes(*b) & 0x7f80_0000 == 0x7f80_0000;
            data.as_chunks().0.chunks(1024).all(|piece| !piece.iter().fold(false, |any, b| any | bad(b)))
        }
        Dtype::F16 => halves(0x7c00),
        Dtype::BF16 => halves(0x7f80),
        _ => true,
    }
}

/// The first few of `names`, and how many more there are.
pub(super) fn few<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let mut text = shown.join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// Catches what the safetensors crate lets through: repeated names, and offsets so large that their sum overflows.
fn check_header(bytes: &[u8]) -> Result<(), String> {
    let length = bytes.first_chunk().map(|first| u64::from_le_bytes(*first)).ok_or("it is shorter than 8 bytes")?;
    if length > MAX_HEADER {
        return Err(format!("a header may have {MAX_HEADER} bytes, given {length}"));
    }
    let header = bytes.get(8..8 + length as usize).ok_or("its header is longer than the file")?;
    let data = (bytes.len() - 8 - header.len()) as u64;
    let mut reader = serde_json::Deserializer::from_slice(header);
    reader.deserialize_map(HeaderCheck { data }).map_err(|why| why.to_string())
}

struct HeaderCheck {
    data: u64,
}

#[derive(Deserialize)]
struct Extent {
    data_offsets: (u64, u64),
}

impl<'de> Visitor<'de> for HeaderCheck {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                let (start, end) = map.next_value::<Extent>()?.data_offsets;
                if start > end || end > self.data {
                    return Err(M::Error::custom(format!("tensor {name} lies outside the file")));
                }
            }
            if let Some(twice) = seen.replace(name) {
                return Err(M::Error::custom(format!("{twice} is named twice")));
            }
        }
        Ok(())
    }
}
