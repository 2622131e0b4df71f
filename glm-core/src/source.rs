//! Files as byte slices: mapped, or embedded in the program.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::LoadError;

/// A read-only file whose bytes are fetched by the operating system when they are touched.
pub(crate) struct SourceFile {
    path: PathBuf,
    data: Data,
}

enum Data {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl SourceFile {
    /// Maps a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        // Before opening: to open a pipe is to wait for its other end.
        let metadata = std::fs::metadata(path).map_err(LoadError::io("open", path))?;
        check_regular(&metadata, path)?;
        let file = File::open(path).map_err(LoadError::io("open", path))?;
        let data = if metadata.len() == 0 {
            Data::Static(&[]) // an empty range cannot be mapped
        } else {
            Data::Mapped(map(&file).map_err(LoadError::io("map", path))?)
        };
        Ok(Self {
            path: path.to_path_buf(),
            data,
        })
    }

    /// A file embedded in the program; `path` is only its name in messages.
    pub(crate) fn embedded(path: PathBuf, bytes: &'static [u8]) -> Self {
        Self {
            path,
            data: Data::Static(bytes),
        }
    }

    /// A file already in memory; `path` is only its name in messages.
    pub(crate) fn in_memory(path: PathBuf, bytes: Vec<u8>) -> Self {
        Self {
            path,
            data: Data::Owned(bytes),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Mapped(map) => map,
            Data::Static(bytes) => bytes,
            Data::Owned(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes().len() as u64
    }
}

fn check_regular(metadata: &Metadata, path: &Path) -> Result<(), LoadError> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(LoadError::NotACheckpoint {
        path: path.to_path_buf(),
        found: "not a regular file".into(),
        hint: "give a directory, a .gguf file or a hub id".into(),
    })
}

#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is private and read-only, and no reference to its bytes outlives it. What Rust cannot rule out is another
    // process changing the file meanwhile: weights are written once and replaced by renaming (our writer and the hub cache
    // both do), every offset is checked against the length that was mapped, and all bytes are plain data, valid in any state.
    // A file that is cut short while mapped ends the process with SIGBUS, as in every engine that maps its weights.
    unsafe { Mmap::map(file) }
}

/// Reads a small text file, if it exists.
///
/// # Errors
/// [`LoadError::Io`] if it exists and cannot be read; [`LoadError::NotACheckpoint`] if it is no regular file;
/// [`LoadError::Header`] if it is larger than `limit` bytes.
pub(crate) fn read_text_if_present(path: &Path, limit: u64) -> Result<Option<String>, LoadError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LoadError::io("read", path)(error)),
        Ok(metadata) if metadata.len() > limit => {
            return Err(LoadError::Header {
                file: path.to_path_buf(),
                field: "length in bytes".into(),
                expected: format!("at most {limit}"),
                found: metadata.len().to_string(),
            });
        }
        Ok(metadata) => check_regular(&metadata, path)?,
    }
    std::fs::read_to_string(path)
        .map(Some)
        .map_err(LoadError::io("read", path))
}
