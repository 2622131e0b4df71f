//! The prefix cache in a file, so that it outlives the process.
//!
//! ```text
//! 7 bytes   "GLM-KV\0", and 1 byte: the version of the format
//! u32       length of the header, at most 1 MiB
//! JSON      header: which keys and values these are (`identity`), and how many blocks follow
//! u32       CRC-32
//! per block, the one to be kept longest first, each after the one that it continues:
//!   u32     place of the block that it continues; or 2^32 - 1, u32 length of the tenant's salt + 1 (0: none), and the salt
//!   16 u32  its tokens
//!   bytes   its keys and values in every layer, as [`KvPool::read_block`] gives them
//!   u32     CRC-32
//! ```
//! Numbers are little-endian. Every CRC covers all bytes before it, so a block cannot move to another place or file. A file that ends
//! too early is good for the blocks it has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use glm_kernels::KernelError;
use serde::{Deserialize, Serialize};

use super::{BLOCK_SIZE, BlockAllocator, BlockId, CacheSalt, KnownBlock, KvPool, Origin};

const MAGIC: &[u8; 7] = b"GLM-KV\0";
const VERSION: u8 = 1;
const MAX_HEADER_BYTES: u32 = 1 << 20;
/// What begins with a longer salt is not kept.
const MAX_SALT_BYTES: usize = 1 << 16;
/// In place of the block that a first one continues.
const NONE: u32 = u32::MAX;

/// What keys and values depend on, by name; blocks are exchanged only where all of it is the same.
pub(crate) type Identity = BTreeMap<String, String>;

/// Why a prefix cache could not be written to a file or read from one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixCacheError {
    /// The operating system refused.
    #[error("cannot {action} the prefix cache {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is another kind of file of this name, and it is left alone.
    #[error("{0} is not a prefix cache and will not be replaced by one: choose another name")]
    NotOurs(PathBuf),
    /// Another version of this program wrote it.
    #[error(
        "the prefix cache {path} has version {found} of its format, this program reads {VERSION}"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u8,
    },
    /// Its keys and values are not those that this engine would compute.
    #[error("the prefix cache {path} was written with other {what}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// The header is damaged.
    #[error("the prefix cache {0} is damaged")]
    Damaged(PathBuf),
    /// The weights, which tell for what model it is good, could not be read.
    #[error("cannot read the weights to name the model of the prefix cache: {0}")]
    Weights(String),
    /// The device refused a copy.
    #[error("cannot copy the prefix cache: {0}")]
    Device(#[from] KernelError),
    /// The engine thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// What was written to a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SavedPrefixCache {
    /// Blocks of the KV cache.
    pub blocks: usize,
    /// Tokens whose keys and values they hold.
    pub tokens: usize,
    /// Length of the file.
    pub bytes: u64,
}

/// What came back from a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) blocks: usize,
    /// It ended too early, or the rest of it is damaged.
    pub(crate) damaged: bool,
}

#[derive(Serialize, Deserialize)]
struct Header {
    identity: Identity,
    blocks: usize,
}

/// Writes all known blocks but those of adapters, which have no name outside of this engine. The file appears, or replaces the old
/// one, when it is complete. It holds the tokens of prompts and answers, so only its owner may read it.
pub(crate) fn save(
    path: &Path,
    identity: &Identity,
    blocks: &BlockAllocator,
    pool: &KvPool,
) -> Result<SavedPrefixCache, PrefixCacheError> {
    let io = |source| PrefixCacheError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    };
    check_replaceable(path)?;
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Made for its owner alone, and removed if anything below fails.
    let file = tempfile::Builder::new()
        .prefix(".prefix-cache-")
        .tempfile_in(folder)
        .map_err(io)?;
    let kept = kept_blocks(blocks.known_blocks());
    let header = Header {
        identity: identity.clone(),
        blocks: kept.len(),
    };
    let mut out = Output::new(BufWriter::new(file));
    out.header(&header).map_err(io)?;
    let mut bytes = vec![0; pool.block_bytes()];
    for known in &kept {
        pool.read_block(known.block, &mut bytes)?;
        out.block(known, &bytes).map_err(io)?;
    }
    let (file, len) = out.finish().map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(SavedPrefixCache {
        blocks: kept.len(),
        tokens: kept.len() * BLOCK_SIZE,
        bytes: len,
    })
}

/// Puts the blocks of a file into an allocator and a pool that have none yet, as many as there is room for. `None` if there is no such
/// file, or an empty one.
pub(crate) fn load(
    path: &Path,
    identity: &Identity,
    blocks: &mut BlockAllocator,
    pool: &mut KvPool,
) -> Result<Option<Restored>, PrefixCacheError> {
    let Some(file) = open(path)? else {
        return Ok(None);
    };
    read(file, path, identity, blocks, pool).map(Some)
}

/// As [`load`], from what `path` names; an empty file is no prefix cache.
pub(crate) fn read(
    file: impl Read,
    path: &Path,
    identity: &Identity,
    blocks: &mut BlockAllocator,
    pool: &mut KvPool,
) -> Result<Restored, PrefixCacheError> {
    let mut input = begin(file, path)?;
    let damaged = |_| PrefixCacheError::Damaged(path.to_owned());
    let header = input.header().map_err(damaged)?;
    let differs = |name: &&String| identity.get(*name) != header.identity.get(*name);
    let names = identity.keys().chain(header.identity.keys());
    if let Some(name) = names.into_iter().find(differs) {
        return Err(PrefixCacheError::Mismatch {
            path: path.to_owned(),
            what: name.clone(),
        });
    }
    let mut restored = Vec::new();
    let result = restore_blocks(&mut input, header.blocks, &mut restored, blocks, pool);
    let count = restored.len();
    // The last one first, so that those to be kept longest are.
    blocks.release(restored);
    match result {
        Ok(complete) => Ok(Restored {
            blocks: count,
            damaged: !complete,
        }),
        Err(error) => {
            blocks.forget_all();
            Err(error.into())
        }
    }
}

/// Refuses to replace what is no prefix cache: a slip of the pen must not cost somebody a checkpoint.
fn check_replaceable(path: &Path) -> Result<(), PrefixCacheError> {
    let Some(file) = open(path)? else {
        return Ok(());
    };
    match begin(file, path) {
        Ok(_) | Err(PrefixCacheError::Version { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The file; `None` if there is none, or it is empty.
fn open(path: &Path) -> Result<Option<BufReader<File>>, PrefixCacheError> {
    let io = |source| PrefixCacheError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let metadata = file.metadata().map_err(io)?;
    // A pipe or a device may never end.
    if !metadata.is_file() {
        return Err(PrefixCacheError::NotOurs(path.to_owned()));
    }
    Ok((metadata.len() > 0).then(|| BufReader::new(file)))
}

/// A file behind its magic.
fn begin<R: Read>(file: R, path: &Path) -> Result<Input<R>, PrefixCacheError> {
    let mut input = Input::new(file);
    let mut magic = [0; MAGIC.len() + 1];
    match input.fill(&mut magic) {
        Ok(()) if magic.starts_with(MAGIC) => {}
        Ok(()) => return Err(PrefixCacheError::NotOurs(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(PrefixCacheError::NotOurs(path.to_owned()));
        }
        Err(source) => {
            return Err(PrefixCacheError::Io {
                action: "read",
                path: path.to_owned(),
                source,
            });
        }
    }
    match magic[MAGIC.len()] {
        VERSION => Ok(input),
        found => Err(PrefixCacheError::Version {
            path: path.to_owned(),
            found,
        }),
    }
}

/// Leaves out what cannot be told apart in a file, with what continues it, and counts places anew.
fn kept_blocks(known: Vec<KnownBlock>) -> Vec<KnownBlock> {
    let mut places: Vec<Option<usize>> = Vec::with_capacity(known.len());
    let mut kept = Vec::with_capacity(known.len());
    for mut block in known {
        let origin = match block.origin {
            Origin::Start(salt) => {
                let tenant = salt.tenant();
                let fits = tenant.is_some_and(|t| t.is_none_or(|t| t.len() <= MAX_SALT_BYTES));
                fits.then_some(Origin::Start(salt))
            }
            Origin::After(before) => places[before].map(Origin::After),
        };
        places.push(origin.is_some().then_some(kept.len()));
        if let Some(origin) = origin {
            block.origin = origin;
            kept.push(block);
        }
    }
    kept
}

/// Reads blocks until there are no more, or no more room, and lists them; the caller releases them. False if the file is damaged.
fn restore_blocks(
    input: &mut Input<impl Read>,
    count: usize,
    restored: &mut Vec<BlockId>,
    blocks: &mut BlockAllocator,
    pool: &mut KvPool,
) -> Result<bool, KernelError> {
    let mut bytes = vec![0; pool.block_bytes()];
    while restored.len() < count && blocks.num_free() > blocks.num_cached() {
        let Ok((origin, tokens)) = input.block(&mut bytes) else {
            return Ok(false);
        };
        let before = match origin {
            Origin::Start(salt) => Err(salt),
            Origin::After(place) => match restored.get(place) {
                Some(&block) => Ok(block),
                None => return Ok(false),
            },
        };
        let Some(block) = blocks.restore(before, tokens) else {
            return Ok(false);
        };
        restored.push(block);
        pool.write_block(block, &bytes)?;
    }
    Ok(true)
}

/// A file that is written, and the CRC of what it has so far.
struct Output<W> {
    file: W,
    crc: crc32fast::Hasher,
    len: u64,
}

impl<W: Write> Output<W> {
    fn new(file: W) -> Self {
        Self {
            file,
            crc: crc32fast::Hasher::new(),
            len: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.len += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn put_u32(&mut self, value: u32) -> io::Result<()> {
        self.put(&value.to_le_bytes())
    }

    fn put_crc(&mut self) -> io::Result<()> {
        self.put_u32(self.crc.clone().finalize())
    }

    fn header(&mut self, header: &Header) -> io::Result<()> {
        let json = serde_json::to_vec(header)?;
        self.put(MAGIC)?;
        self.put(&[VERSION])?;
        self.put_u32(json.len() as u32)?;
        self.put(&json)?;
        self.put_crc()
    }

    fn block(&mut self, known: &KnownBlock, bytes: &[u8]) -> io::Result<()> {
        match &known.origin {
            Origin::After(place) => self.put_u32(*place as u32)?,
            Origin::Start(salt) => {
                self.put_u32(NONE)?;
                match salt.tenant().flatten() {
                    None => self.put_u32(0)?,
                    Some(tenant) => {
                        self.put_u32(tenant.len() as u32 + 1)?;
                        self.put(tenant.as_bytes())?;
                    }
                }
            }
        }
        for token in known.tokens {
            self.put_u32(token)?;
        }
        self.put(bytes)?;
        self.put_crc()
    }
}

impl<W: Write> Output<BufWriter<W>> {
    fn finish(self) -> io::Result<(W, u64)> {
        let file = self.file.into_inner().map_err(|error| error.into_error())?;
        Ok((file, self.len))
    }
}

/// A file that is read, and the CRC of what was read so far. Nothing in it decides how much memory is taken, but within the bounds
/// above.
struct Input<R> {
    file: R,
    crc: crc32fast::Hasher,
}

impl<R: Read> Input<R> {
    fn new(file: R) -> Self {
        Self {
            file,
            crc: crc32fast::Hasher::new(),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(bytes)?;
        self.crc.update(bytes);
        Ok(())
    }

    fn u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn check_crc(&mut self) -> io::Result<()> {
        let expected = self.crc.clone().finalize();
        (self.u32()? == expected).then_some(()).ok_or_else(damaged)
    }

    fn header(&mut self) -> io::Result<Header> {
        let len = self.u32()?;
        if len > MAX_HEADER_BYTES {
            return Err(damaged());
        }
        let mut json = vec![0; len as usize];
        self.fill(&mut json)?;
        self.check_crc()?;
        Ok(serde_json::from_slice(&json)?)
    }

    /// What a block holds; `bytes` gets its keys and values.
    fn block(&mut self, bytes: &mut [u8]) -> io::Result<(Origin, [u32; BLOCK_SIZE])> {
        let origin = match self.u32()? {
            NONE => Origin::Start(self.salt()?),
            place => Origin::After(place as usize),
        };
        let mut tokens = [0; BLOCK_SIZE];
        for token in &mut tokens {
            *token = self.u32()?;
        }
        self.fill(bytes)?;
        self.check_crc()?;
        Ok((origin, tokens))
    }

    fn salt(&mut self) -> io::Result<CacheSalt> {
        let len = match self.u32()?.checked_sub(1) {
            None => return Ok(CacheSalt::default()),
            Some(len) => len as usize,
        };
        if len > MAX_SALT_BYTES {
            return Err(damaged());
        }
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        let tenant = String::from_utf8(bytes).map_err(|_| damaged())?;
        Ok(CacheSalt::from(Some(tenant)))
    }
}

fn damaged() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests;
