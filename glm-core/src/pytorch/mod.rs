//! PyTorch checkpoints: a zip archive with a pickled state dict and one uncompressed file per storage.
//!
//! The pickle is read as data. The only "calls" understood are those that rebuild a tensor from a storage; any other is refused by
//! name and nothing is ever executed. Storages are not copied: tensors are ranges of the mapped archive.
//!
//! candle's reader (`candle_core::pickle`) is the oracle in tests. It is not used here because it panics on malformed argument
//! lists, copies the memo at every reference, and skips a tensor that it does not understand with a line on standard error.

mod pickle;
mod state_dict;
mod zip;

use std::collections::HashMap;

use crate::error::LoadError;
use crate::source::SourceFile;
use crate::tensor::{RawTensor, TensorType};
use state_dict::StoredTensor;
use zip::Archive;

/// The pickle holds names and shapes only: some hundred bytes per tensor. A byte of it can become an object of some forty.
const MAX_PICKLE_BYTES: u64 = 16 << 20;

/// Lists the tensors of a file; `file_index` is stored in each.
///
/// # Errors
/// [`LoadError::Truncated`], [`LoadError::Header`] or [`LoadError::DuplicateTensor`].
pub(crate) fn read_header(
    file: &SourceFile,
    file_index: usize,
) -> Result<Vec<RawTensor>, LoadError> {
    let archive = Archive::read(file)?;
    let (pickle_name, pickle) = archive.only_entry_ending_with("/data.pkl")?;
    if pickle.len > MAX_PICKLE_BYTES {
        return Err(header_error(
            file,
            "length of data.pkl",
            format!("at most {MAX_PICKLE_BYTES} bytes"),
            pickle.len.to_string(),
        ));
    }
    let prefix = pickle_name.trim_end_matches("data.pkl");
    if archive
        .bytes(&format!("{prefix}byteorder"))
        .is_some_and(|order| order == b"big")
    {
        return Err(header_error(
            file,
            "byteorder",
            "little".into(),
            "big".into(),
        ));
    }
    let program = archive.bytes(pickle_name).unwrap_or_default();
    let objects = pickle::run(program).map_err(|e| {
        header_error(
            file,
            &format!("data.pkl, byte {}", e.position),
            e.expected,
            e.found,
        )
    })?;
    let stored = state_dict::tensors(&objects)
        .map_err(|e| header_error(file, &e.field, e.expected, e.found))?;
    let mut seen = HashMap::new();
    for tensor in &stored {
        if seen.insert(tensor.name, ()).is_some() {
            let path = || file.path().to_path_buf();
            return Err(LoadError::DuplicateTensor {
                tensor: tensor.name.to_owned(),
                first: path(),
                second: path(),
            });
        }
    }
    stored
        .into_iter()
        .map(|tensor| locate(file, file_index, &archive, prefix, tensor))
        .collect()
}

/// Number of tensors in a bare pickle, without the archive around it.
pub(crate) fn count_tensors(program: &[u8]) -> Option<usize> {
    let objects = pickle::run(program).ok()?;
    Some(state_dict::tensors(&objects).ok()?.len())
}

/// Finds the bytes of a tensor in its storage.
fn locate(
    file: &SourceFile,
    file_index: usize,
    archive: &Archive<'_>,
    prefix: &str,
    tensor: StoredTensor<'_>,
) -> Result<RawTensor, LoadError> {
    let storage_name = format!("{prefix}data/{}", tensor.storage);
    let Some(storage) = archive.entry(&storage_name) else {
        return Err(header_error(
            file,
            &format!("storage of tensor `{}`", tensor.name),
            storage_name,
            "no such entry".into(),
        ));
    };
    let (element_bytes, ty) = element(tensor.storage_type);
    let elements = tensor
        .shape
        .iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    let start = tensor.offset.checked_mul(element_bytes);
    let bytes = elements.and_then(|n| n.checked_mul(element_bytes));
    let fits = start.zip(bytes).filter(|(start, bytes)| {
        start
            .checked_add(*bytes)
            .is_some_and(|end| end <= storage.len)
    });
    let Some((start, bytes)) = fits else {
        return Err(header_error(
            file,
            &format!("storage of tensor `{}`", tensor.name),
            format!(
                "{:?} elements of {} from {} on",
                tensor.shape, tensor.storage_type, tensor.offset
            ),
            format!("{} bytes", storage.len),
        ));
    };
    if !is_contiguous(&tensor.shape, &tensor.stride) {
        return Err(header_error(
            file,
            &format!("stride of tensor `{}`", tensor.name),
            format!("row-major for shape {:?}", tensor.shape),
            format!("{:?}", tensor.stride),
        ));
    }
    Ok(RawTensor {
        name: tensor.name.to_owned(),
        shape: tensor.shape,
        ty,
        file: file_index,
        offset: storage.offset + start,
        bytes,
    })
}

/// Bytes per element and type of a storage class.
fn element(storage_type: &str) -> (u64, Result<TensorType, String>) {
    match storage_type {
        "FloatStorage" => (4, Ok(TensorType::F32)),
        "HalfStorage" => (2, Ok(TensorType::F16)),
        "BFloat16Storage" => (2, Ok(TensorType::BF16)),
        "DoubleStorage" | "LongStorage" => (8, Err(storage_type.to_owned())),
        "IntStorage" => (4, Err(storage_type.to_owned())),
        "ShortStorage" => (2, Err(storage_type.to_owned())),
        _ => (1, Err(storage_type.to_owned())),
    }
}

/// Whether elements lie in row-major order; dimensions of length 1 may have any stride.
fn is_contiguous(shape: &[usize], stride: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.len() == stride.len()
        && shape.iter().zip(stride).rev().all(|(&d, &s)| {
            let fits = d == 1 || s == expected;
            expected = expected.saturating_mul(d);
            fits
        })
}

fn header_error(file: &SourceFile, field: &str, expected: String, found: String) -> LoadError {
    LoadError::Header {
        file: file.path().to_path_buf(),
        field: field.to_owned(),
        expected,
        found,
    }
}
