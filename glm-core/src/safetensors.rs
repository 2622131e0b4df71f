//! The safetensors header: an 8-byte length, JSON, then the data without a gap.
//!
//! Read here and not through the `safetensors` crate, whose errors do not say which tensor, what was expected and what was found,
//! and whose map keeps the last of two tensors with one name.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::LoadError;
use crate::source::SourceFile;
use crate::tensor::{RawTensor, TensorType};

/// The limit of the reference implementation; the header of a real shard is below a megabyte.
const MAX_HEADER_BYTES: u64 = 100_000_000;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Entries in file order; a map would lose duplicates.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Lists the tensors of a file; `file_index` is stored in each.
///
/// # Errors
/// [`LoadError::Truncated`], [`LoadError::Header`], [`LoadError::Json`] or [`LoadError::DuplicateTensor`].
pub(crate) fn read_header(
    file: &SourceFile,
    file_index: usize,
) -> Result<Vec<RawTensor>, LoadError> {
    let path = || file.path().to_path_buf();
    let (header, data_start) = split_header(file)?;
    let Header(mut entries) = serde_json::from_slice(header).map_err(|source| LoadError::Json {
        file: path(),
        source,
    })?;
    let mut names = HashSet::new();
    if let Some((name, _)) = entries
        .iter()
        .find(|(name, _)| !names.insert(name.as_str()))
    {
        return Err(LoadError::DuplicateTensor {
            tensor: name.clone(),
            first: path(),
            second: path(),
        });
    }
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut tensors = Vec::with_capacity(entries.len());
    let mut expected_start = 0;
    for (name, entry) in entries {
        let [start, end] = entry.data_offsets;
        if start != expected_start || end < start {
            return Err(LoadError::Header {
                file: path(),
                field: format!("data_offsets of tensor `{name}`"),
                expected: format!(
                    "a range starting at {expected_start}, where the previous tensor ends"
                ),
                found: format!("{start}..{end}"),
            });
        }
        expected_start = end;
        let file_end = data_start.saturating_add(end);
        if file_end > file.len() {
            return Err(LoadError::Truncated {
                file: path(),
                what: format!("tensor `{name}`"),
                expected: file_end,
                found: file.len(),
            });
        }
        tensors.push(raw_tensor(
            file,
            file_index,
            name,
            &entry,
            data_start + start,
        )?);
    }
    if data_start + expected_start != file.len() {
        return Err(LoadError::Header {
            file: path(),
            field: "length of the file".into(),
            expected: format!(
                "{} bytes, where the last tensor ends",
                data_start + expected_start
            ),
            found: format!("{} bytes", file.len()),
        });
    }
    Ok(tensors)
}

/// The JSON and the offset of the data after it.
fn split_header(file: &SourceFile) -> Result<(&[u8], u64), LoadError> {
    let truncated = |what: &str, expected| LoadError::Truncated {
        file: file.path().to_path_buf(),
        what: what.into(),
        expected,
        found: file.len(),
    };
    let Some((length, rest)) = file.bytes().split_first_chunk::<8>() else {
        return Err(truncated("the header length", 8));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(LoadError::Header {
            file: file.path().to_path_buf(),
            field: "header length".into(),
            expected: format!("at most {MAX_HEADER_BYTES} bytes"),
            found: length.to_string(),
        });
    }
    match rest.get(..length as usize) {
        Some(header) => Ok((header, 8 + length)),
        None => Err(truncated("the header", 8 + length)),
    }
}

fn raw_tensor(
    file: &SourceFile,
    file_index: usize,
    name: String,
    entry: &Entry,
    offset: u64,
) -> Result<RawTensor, LoadError> {
    let bytes = entry.data_offsets[1] - entry.data_offsets[0];
    let shape = entry
        .shape
        .iter()
        .map(|&d| usize::try_from(d).ok())
        .collect::<Option<Vec<_>>>();
    let elements = entry.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    let ty = tensor_type(&entry.dtype).ok_or_else(|| entry.dtype.clone());
    let needed = match &ty {
        Ok(ty) => shape.as_ref().and_then(|shape| ty.byte_len(shape)),
        Err(_) => elements.map(|_| bytes), // of an unknown size per element; refused later, if the model needs the tensor
    };
    match (shape, needed) {
        (Some(shape), Some(needed)) if needed == bytes => Ok(RawTensor {
            name,
            shape,
            ty,
            file: file_index,
            offset,
            bytes,
        }),
        _ => Err(LoadError::Header {
            file: file.path().to_path_buf(),
            field: format!("data of tensor `{name}`"),
            expected: match needed {
                Some(needed) => format!("{needed} bytes for {} {:?}", entry.dtype, entry.shape),
                None => format!(
                    "a shape of less than 2^64 bytes instead of {:?}",
                    entry.shape
                ),
            },
            found: format!("{bytes} bytes"),
        }),
    }
}

fn tensor_type(dtype: &str) -> Option<TensorType> {
    match dtype {
        "F32" => Some(TensorType::F32),
        "F16" => Some(TensorType::F16),
        "BF16" => Some(TensorType::BF16),
        _ => None,
    }
}
