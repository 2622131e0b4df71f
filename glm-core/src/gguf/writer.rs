//! Writing one GGUF file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::value::{Value, write_string};
use super::{DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS};
use crate::error::LoadError;
use crate::tensor::TensorType;

const VERSION: u32 = 3;

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the file; [`super::tensor_name`] gives llama.cpp's name for a canonical one.
    pub name: String,
    /// Row-major shape, `[out_features, in_features]`.
    pub shape: Vec<usize>,
    /// Element type.
    pub ty: TensorType,
}

/// Streams tensors into a new GGUF file (version 3).
///
/// The bytes go to a temporary file beside the target; [`Writer::finish`] makes it durable and renames it. A writer that is dropped
/// before, on an error or a panic, removes it: a half-written model never carries the target's name.
///
/// ```
/// use glm_core::TensorType;
/// use glm_core::gguf::{Reader, TensorSpec, Value, Writer};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("tiny.gguf");
/// let spec = TensorSpec { name: "output_norm.weight".into(), shape: vec![2], ty: TensorType::F32 };
/// let metadata = [("general.architecture".to_owned(), Value::from("glm4"))];
/// let mut writer = Writer::create(&path, &metadata, &[spec])?;
/// writer.write(&1.0f32.to_le_bytes())?; // a tensor may come in pieces
/// writer.write(&2.0f32.to_le_bytes())?;
/// writer.finish()?;
/// assert_eq!(Reader::open(&path)?.tensors()[0].shape, [2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Writer {
    out: BufWriter<File>,
    temporary: Temporary,
    target: PathBuf,
    /// Name and length in bytes of every tensor, in order.
    tensors: Vec<(String, u64)>,
    /// Tensors that are whole.
    done: usize,
    /// Bytes of the current tensor that are written.
    written: u64,
}

/// Removes the file when dropped, unless disarmed.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path); // nobody is left to tell
        }
    }
}

impl Writer {
    /// Writes the header; the data of `tensors` must follow in this order.
    ///
    /// # Errors
    /// [`LoadError::Io`] if the directory cannot be written; [`LoadError::Header`] if a shape has no size in its type.
    pub fn create(
        target: impl AsRef<Path>,
        metadata: &[(String, Value)],
        tensors: &[TensorSpec],
    ) -> Result<Self, LoadError> {
        let target = target.as_ref().to_path_buf();
        let header = header(&target, metadata, tensors)?;
        let path = temporary_path(&target);
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(LoadError::io("create", &path))?;
        let mut writer = Self {
            out: BufWriter::with_capacity(1 << 20, file),
            temporary: Temporary(Some(path)),
            target,
            tensors: header.sizes,
            done: 0,
            written: 0,
        };
        writer.put(&header.bytes)?;
        Ok(writer)
    }

    /// Appends bytes to the current tensor; a whole tensor makes the next one current.
    ///
    /// # Errors
    /// [`LoadError::Header`] if the tensor would become longer than declared; [`LoadError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        let (name, expected) = self
            .tensors
            .get(self.done)
            .map_or(("after the last tensor", 0), |(name, len)| {
                (name.as_str(), *len)
            });
        let written = self.written + bytes.len() as u64;
        if written > expected {
            return Err(self.length_error(name, expected, written));
        }
        self.put(bytes)?;
        self.written = written;
        if written == expected {
            self.done += 1;
            self.written = 0;
            self.put(&[0; DEFAULT_ALIGNMENT as usize][..padding(expected)])?;
        }
        Ok(())
    }

    /// Makes the file durable and gives it its name, replacing what was there.
    ///
    /// # Errors
    /// [`LoadError::Header`] if a tensor is missing or short; [`LoadError::Io`]. The temporary file is removed then.
    pub fn finish(mut self) -> Result<(), LoadError> {
        if let Some((name, expected)) = self.tensors.get(self.done) {
            return Err(self.length_error(name, *expected, self.written));
        }
        let io = |action| LoadError::io(action, &self.target);
        self.out.flush().map_err(io("write"))?;
        self.out.get_ref().sync_all().map_err(io("write"))?;
        if let Some(path) = &self.temporary.0 {
            std::fs::rename(path, &self.target).map_err(io("rename to"))?;
        }
        self.temporary.0 = None;
        sync_directory(&self.target);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        self.out
            .write_all(bytes)
            .map_err(LoadError::io("write", &self.target))
    }

    fn length_error(&self, name: &str, expected: u64, found: u64) -> LoadError {
        LoadError::Header {
            file: self.target.clone(),
            field: format!("length of tensor `{name}`"),
            expected: format!("{expected} bytes"),
            found: format!("{found} bytes"),
        }
    }
}

struct Header {
    bytes: Vec<u8>,
    sizes: Vec<(String, u64)>,
}

fn header(
    target: &Path,
    metadata: &[(String, Value)],
    tensors: &[TensorSpec],
) -> Result<Header, LoadError> {
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_string(key, &mut bytes);
        bytes.extend(value.type_id().to_le_bytes());
        value.write(&mut bytes);
    }
    let mut sizes = Vec::with_capacity(tensors.len());
    let mut offset = 0u64;
    for tensor in tensors {
        let num_dims = u32::try_from(tensor.shape.len())
            .ok()
            .filter(|n| (1..=MAX_DIMS).contains(n));
        let byte_len = tensor.ty.byte_len(&tensor.shape).filter(|&len| len > 0);
        let (Some(num_dims), Some(byte_len)) = (num_dims, byte_len) else {
            return Err(LoadError::Header {
                file: target.to_path_buf(),
                field: format!("shape of tensor `{}`", tensor.name),
                expected: format!(
                    "1 to 4 positive dimensions, rows of whole {} blocks",
                    tensor.ty
                ),
                found: format!("{:?}", tensor.shape),
            });
        };
        write_string(&tensor.name, &mut bytes);
        bytes.extend(num_dims.to_le_bytes());
        tensor
            .shape
            .iter()
            .rev()
            .for_each(|&d| bytes.extend((d as u64).to_le_bytes()));
        bytes.extend(tensor.ty.ggml_id().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += byte_len + padding(byte_len) as u64;
        sizes.push((tensor.name.clone(), byte_len));
    }
    bytes.resize(bytes.len() + padding(bytes.len() as u64), 0);
    Ok(Header { bytes, sizes })
}

/// Bytes from `len` to the next multiple of the alignment.
fn padding(len: u64) -> usize {
    (len.next_multiple_of(DEFAULT_ALIGNMENT) - len) as usize
}

/// A name beside the target, so that renaming stays within one file system.
fn temporary_path(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Makes the new directory entry durable where the file system can; a failure leaves a valid file behind either way.
fn sync_directory(target: &Path) {
    let parent = target
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if let Ok(directory) = File::open(parent) {
        let _ = directory.sync_all();
    }
}
