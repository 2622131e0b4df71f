//! Reading one GGUF file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::cursor::Cursor;
use super::value::Value;
use super::{DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS};
use crate::error::LoadError;
use crate::source::SourceFile;
use crate::tensor::TensorType;

/// One GGUF file: metadata parsed, tensors listed, their data mapped.
pub struct Reader {
    file: Arc<SourceFile>,
    version: u32,
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    tensors: Vec<TensorEntry>,
}

/// A tensor as the file lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name in the file.
    pub name: String,
    /// Row-major shape: the file's dimensions in reverse.
    pub shape: Vec<usize>,
    /// Element type.
    pub ty: TensorType,
    /// First byte of the data, from the start of the file.
    pub offset: u64,
    /// Length of the data in bytes.
    pub bytes: u64,
}

impl Reader {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// [`LoadError::NotACheckpoint`] if it is no GGUF file; [`LoadError::Truncated`], [`LoadError::Header`],
    /// [`LoadError::TensorType`] or [`LoadError::DuplicateTensor`] if its header cannot be right.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        Self::from_source(Arc::new(SourceFile::open(path.as_ref())?))
    }

    /// Reads a file that is already in memory; `name` stands for the path in messages.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, LoadError> {
        Self::from_source(Arc::new(SourceFile::in_memory(name.into(), bytes)))
    }

    pub(crate) fn from_source(file: Arc<SourceFile>) -> Result<Self, LoadError> {
        let mut cursor = Cursor::new(file.path(), file.bytes());
        let version = read_version(&mut cursor, &file)?;
        // A tensor takes at least name length, dimension count, one dimension, type and offset; a value at least key length, type and a byte.
        let tensor_count = cursor.count(8 + 4 + 8 + 4 + 8, "tensor count")?;
        let metadata_count = cursor.count(8 + 4 + 1, "metadata count")?;
        let (metadata, keys) = read_metadata(&mut cursor, metadata_count)?;
        let alignment = alignment(
            &cursor,
            keys.get("general.alignment").map(|&i| &metadata[i].1),
        )?;
        let mut tensors = (0..tensor_count)
            .map(|_| read_tensor(&mut cursor, &file))
            .collect::<Result<Vec<_>, _>>()?;
        place(&mut tensors, cursor.position(), alignment, &file)?;
        Ok(Self {
            file,
            version,
            metadata,
            keys,
            tensors,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Every key and value, in file order.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).map(|&i| &self.metadata[i].1)
    }

    /// Every tensor, in file order.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// A tensor's data; empty if the entry is of another file.
    pub fn data(&self, tensor: &TensorEntry) -> &[u8] {
        let end = tensor.offset.saturating_add(tensor.bytes);
        match (usize::try_from(tensor.offset), usize::try_from(end)) {
            (Ok(start), Ok(end)) => self.file.bytes().get(start..end).unwrap_or_default(),
            _ => &[],
        }
    }

    pub(crate) fn source(&self) -> &Arc<SourceFile> {
        &self.file
    }
}

fn read_version(cursor: &mut Cursor<'_>, file: &SourceFile) -> Result<u32, LoadError> {
    let not_gguf = |found: String| LoadError::NotACheckpoint {
        path: file.path().to_path_buf(),
        found,
        hint: "a GGUF file starts with `GGUF`; give a .gguf file, a directory or a hub id".into(),
    };
    let Ok(magic) = cursor.take(4, "magic") else {
        return Err(not_gguf(format!("a file of {} bytes", file.len())));
    };
    if magic != MAGIC {
        return Err(not_gguf(format!(
            "it starts with `{}`",
            magic.escape_ascii()
        )));
    }
    match cursor.u32("version")? {
        version @ 2..=3 => Ok(version),
        version if matches!(version.swap_bytes(), 1..=3) => Err(cursor.header(
            "version",
            "little-endian version 2 or 3",
            format!("{} in big-endian order", version.swap_bytes()),
        )),
        version => Err(cursor.header("version", "2 or 3", version.to_string())),
    }
}

type Metadata = (Vec<(String, Value)>, HashMap<String, usize>);

fn read_metadata(cursor: &mut Cursor<'_>, count: usize) -> Result<Metadata, LoadError> {
    let (mut metadata, mut keys) = (Vec::new(), HashMap::new());
    for index in 0..count {
        let key = cursor.name("metadata key")?;
        let value = cursor.value(&key)?;
        if keys.insert(key.clone(), index).is_some() {
            return Err(cursor.header(&key, "to appear once", "there twice"));
        }
        metadata.push((key, value));
    }
    Ok((metadata, keys))
}

fn alignment(cursor: &Cursor<'_>, value: Option<&Value>) -> Result<u64, LoadError> {
    let Some(value) = value else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    match value.as_u64() {
        Some(alignment @ 1..=0x10_0000) if alignment.is_power_of_two() => Ok(alignment),
        _ => Err(cursor.header(
            "general.alignment",
            "a power of two up to 1048576",
            value.describe(),
        )),
    }
}

/// Reads one entry; its offset is still relative to the data section.
fn read_tensor(cursor: &mut Cursor<'_>, file: &SourceFile) -> Result<TensorEntry, LoadError> {
    let name = cursor.name("tensor name")?;
    let num_dims = cursor.u32(&name)?;
    if !(1..=MAX_DIMS).contains(&num_dims) {
        return Err(cursor.header(
            &format!("number of dimensions of tensor `{name}`"),
            "1 to 4",
            num_dims.to_string(),
        ));
    }
    let mut dims = (0..num_dims)
        .map(|_| cursor.u64(&name))
        .collect::<Result<Vec<_>, _>>()?;
    dims.reverse();
    let type_id = cursor.u32(&name)?;
    let offset = cursor.u64(&name)?;
    let ty = TensorType::from_ggml_id(type_id).ok_or_else(|| LoadError::TensorType {
        file: file.path().to_path_buf(),
        tensor: name.clone(),
        found: format!("GGML type {type_id}"),
    })?;
    let shape = dims
        .iter()
        .map(|&d| usize::try_from(d).ok().filter(|&d| d > 0))
        .collect::<Option<Vec<_>>>();
    let sized = shape.and_then(|shape| Some((ty.byte_len(&shape)?, shape)));
    let Some((bytes, shape)) = sized else {
        let expected = format!(
            "positive, rows of whole {ty} blocks ({} weights), less than 2^64 bytes",
            ty.block_len()
        );
        return Err(cursor.header(
            &format!("shape of tensor `{name}`"),
            expected,
            format!("{dims:?}"),
        ));
    };
    Ok(TensorEntry {
        name,
        shape,
        ty,
        offset,
        bytes,
    })
}

/// Turns relative offsets into absolute ones; refuses names that come twice and data that is misaligned, overlaps or leaves the file.
fn place(
    tensors: &mut [TensorEntry],
    header_end: u64,
    alignment: u64,
    file: &SourceFile,
) -> Result<(), LoadError> {
    let path = || file.path().to_path_buf();
    let data_start = header_end
        .checked_next_multiple_of(alignment)
        .unwrap_or(u64::MAX);
    for tensor in tensors.iter_mut() {
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(LoadError::Header {
                file: path(),
                field: format!("offset of tensor `{}`", tensor.name),
                expected: format!("a multiple of {alignment}"),
                found: tensor.offset.to_string(),
            });
        }
        let start = data_start.saturating_add(tensor.offset);
        let end = start.saturating_add(tensor.bytes);
        if end > file.len() {
            return Err(LoadError::Truncated {
                file: path(),
                what: format!("tensor `{}`", tensor.name),
                expected: end,
                found: file.len(),
            });
        }
        tensor.offset = start;
    }
    let mut by_name = HashMap::new();
    for tensor in tensors.iter() {
        if by_name.insert(tensor.name.as_str(), ()).is_some() {
            return Err(LoadError::DuplicateTensor {
                tensor: tensor.name.clone(),
                first: path(),
                second: path(),
            });
        }
    }
    let mut by_offset = tensors.iter().collect::<Vec<_>>();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        let end = pair[0].offset + pair[0].bytes;
        if pair[1].offset < end {
            return Err(LoadError::Header {
                file: path(),
                field: format!("offset of tensor `{}`", pair[1].name),
                expected: format!("{end} or more, where `{}` ends", pair[0].name),
                found: pair[1].offset.to_string(),
            });
        }
    }
    Ok(())
}
