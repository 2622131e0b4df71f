//! Doors to the header parsers for the fuzz targets and their replayed cases; no part of the public interface.

use std::collections::BTreeMap;
use std::path::Path;

use crate::checkpoint::parse_index;
use crate::error::LoadError;
use crate::source::SourceFile;
use crate::{pytorch, safetensors};

/// Shards of an index, each with its tensors.
///
/// # Errors
/// As opening a checkpoint with this index.
pub fn index(text: &str) -> Result<BTreeMap<String, Vec<String>>, LoadError> {
    parse_index(text, Path::new("model.safetensors.index.json"))
}

/// Number of tensors in a safetensors file.
///
/// # Errors
/// As opening a checkpoint with this file.
pub fn safetensors_header(bytes: Vec<u8>) -> Result<usize, LoadError> {
    let file = SourceFile::in_memory("model.safetensors".into(), bytes);
    safetensors::read_header(&file, 0).map(|tensors| tensors.len())
}

/// Number of tensors in a PyTorch file.
///
/// # Errors
/// As opening a checkpoint with this file.
pub fn pytorch_header(bytes: Vec<u8>) -> Result<usize, LoadError> {
    let file = SourceFile::in_memory("pytorch_model.bin".into(), bytes);
    pytorch::read_header(&file, 0).map(|tensors| tensors.len())
}

/// Number of tensors in a bare pickle; `None` if it is no state dict.
pub fn pickle(program: &[u8]) -> Option<usize> {
    pytorch::count_tensors(program)
}
