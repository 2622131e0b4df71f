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

    /// Gives the memory that `bytes` were mapped to back to the system and has it fetch the next [`READ_AHEAD`] bytes of the file
    /// meanwhile. False if `bytes` are no part of this file. They can be read again; that costs fetching them again.
    pub(crate) fn release(&self, bytes: &[u8]) -> bool {
        let (file, part) = (self.bytes().as_ptr_range(), bytes.as_ptr_range());
        if part.start < file.start || file.end < part.end {
            return false;
        }
        if let Data::Mapped(map) = &self.data {
            let offset = part.start.addr() - file.start.addr();
            release_mapped(map, offset..offset + bytes.len());
        }
        true
    }
}

/// How much of a file is asked for before it is read: enough for a disk to work at its full speed, little enough to stay cached.
const READ_AHEAD: usize = 32 << 20;

#[cfg(unix)]
#[allow(unsafe_code)]
fn release_mapped(map: &Mmap, range: std::ops::Range<usize>) {
    use memmap2::{Advice, UncheckedAdvice};

    let ahead = READ_AHEAD.min(map.len() - range.end);
    // Both are hints: if the system does not take them, memory and time are lost, nothing else.
    let _ = map.advise_range(Advice::WillNeed, range.end, ahead);
    // SAFETY: the pages are a file's, mapped read-only, so none holds what the file does not, and when they are touched again, through
    // a reference that is still alive or another, they come back with the same bytes.
    let _ =
        unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
}

#[cfg(not(unix))]
fn release_mapped(_map: &Mmap, _range: std::ops::Range<usize>) {}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// KiB of memory that the mapping of `path` takes in this process, if it is mapped. (/proc/self/smaps, see proc(5).)
    #[cfg(target_os = "linux")]
    fn resident_kib(path: &Path) -> Option<usize> {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mapping = maps
            .lines()
            .skip_while(|line| !line.ends_with(path.to_str().unwrap()))
            .find_map(|line| line.strip_prefix("Rss:"))?;
        mapping.trim().strip_suffix("kB")?.trim().parse().ok()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_released_leaves_memory_and_comes_back_when_read() {
        const MIB: usize = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let content: Vec<u8> = (0..8 * MIB).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = SourceFile::open(&path).unwrap();
        assert!(file.bytes() == content);
        let all = resident_kib(&path).unwrap();
        assert!(
            all >= 8 * 1024,
            "{all} KiB of 8 MiB are mapped after reading"
        );
        assert!(file.release(&file.bytes()[MIB + 5..7 * MIB + 5]));
        let rest = resident_kib(&path).unwrap();
        assert!(rest <= 3 * 1024, "{rest} KiB are left of 2 MiB");
        assert!(file.bytes() == content);
    }

    #[test]
    fn bytes_of_another_file_are_not_released() {
        let file = SourceFile::in_memory("a".into(), vec![1; 100]);
        let other = SourceFile::in_memory("b".into(), vec![2; 100]);
        assert!(file.release(&file.bytes()[10..20]));
        assert!(file.release(file.bytes()));
        assert!(!file.release(other.bytes()));
        assert!(!file.release(&[]));
    }
}
