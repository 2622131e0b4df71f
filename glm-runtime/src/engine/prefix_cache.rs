//! The prefix cache across restarts: what its keys and values depend on, when it is read and when it is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use glm_kernels::{Device, KvDType};

use super::Engine;
use crate::error::BuildError;
use crate::kv::file::{self, Identity, PrefixCacheError, SavedPrefixCache};
use crate::kv::{BLOCK_SIZE, KvPool};
use crate::load::{ModelSource, Quantization};

/// Where an engine keeps its prefix cache, and what it needs for that.
#[derive(Default)]
pub(super) struct PrefixCacheKeeper {
    /// Read at the start, written when the engine drains or ends.
    file: Option<PathBuf>,
    /// How many blocks were known when the file was read or written last.
    saved: u64,
    source: KvSource,
}

/// What keys and values are computed from. Naming it reads all weights, so that is done when it is first needed.
pub(super) enum KvSource {
    Model {
        source: ModelSource,
        quantize: Option<Quantization>,
        kv_dtype: KvDType,
    },
    Named(Identity),
}

impl Default for KvSource {
    fn default() -> Self {
        Self::Named(Identity::new())
    }
}

impl PrefixCacheKeeper {
    pub(super) fn new(file: Option<PathBuf>, source: KvSource) -> Self {
        Self {
            file,
            saved: 0,
            source,
        }
    }
}

impl Engine {
    /// Writes the prefix cache to a file: what was computed for requests so far and is still there, but for those under an adapter.
    /// An engine that is built for the same model with the same options begins with it ([`EngineOptions::prefix_cache_file`]).
    ///
    /// The file is complete when it appears. It holds the tokens of prompts and answers: only its owner may read it.
    ///
    /// [`EngineOptions::prefix_cache_file`]: crate::EngineOptions::prefix_cache_file
    ///
    /// # Errors
    /// [`PrefixCacheError`]: the file cannot be written, or is there and no prefix cache.
    pub fn save_prefix_cache(
        &mut self,
        path: impl AsRef<Path>,
    ) -> Result<SavedPrefixCache, PrefixCacheError> {
        let path = path.as_ref();
        let identity = self.keeper.source.identity(&self.device, &self.kv)?;
        let saved = file::save(path, &identity, &self.blocks, &self.kv)?;
        if self.keeper.file.as_deref() == Some(path) {
            self.keeper.saved = self.blocks.num_named();
        }
        Ok(saved)
    }

    /// Writes the file that the engine was built with, if there is something new to write.
    pub(super) fn keep_prefix_cache(&mut self) {
        let Some(path) = self.keeper.file.clone() else {
            return;
        };
        if self.blocks.num_named() != self.keeper.saved {
            let error = self.save_prefix_cache(&path).err();
            self.counters.prefix_cache_error = error.map(|error| error.to_string());
        }
    }

    /// Begins with what is in the file. What does not fit is noted, and the engine starts without; what looks like a mistake is an
    /// error: a file that must not be replaced at the end, or that cannot be read.
    pub(super) fn restore_prefix_cache(&mut self) -> Result<(), BuildError> {
        let Some(path) = self.keeper.file.clone() else {
            return Ok(());
        };
        let identity = self.keeper.source.identity(&self.device, &self.kv)?;
        let note = match file::load(&path, &identity, &mut self.blocks, &mut self.kv) {
            Ok(None) => None,
            Ok(Some(restored)) => {
                self.counters.prefix_cache_restored = (restored.blocks * BLOCK_SIZE) as u64;
                let note = || {
                    let (path, tokens) = (path.display(), restored.blocks * BLOCK_SIZE);
                    format!("the prefix cache {path} is damaged behind its first {tokens} tokens")
                };
                restored.damaged.then(note)
            }
            Err(
                error @ (PrefixCacheError::Version { .. }
                | PrefixCacheError::Mismatch { .. }
                | PrefixCacheError::Damaged(_)),
            ) => Some(format!("{error}; it is not used, and will be replaced")),
            Err(error) => return Err(error.into()),
        };
        self.keeper.saved = self.blocks.num_named();
        // Nobody else has it before the engine is built.
        if let Some(front) = Arc::get_mut(&mut self.front) {
            front.info.load_notes.extend(note);
        }
        Ok(())
    }
}

impl KvSource {
    fn identity(&mut self, device: &Device, pool: &KvPool) -> Result<Identity, PrefixCacheError> {
        let (source, quantize, kv_dtype) = match self {
            Self::Named(identity) => return Ok(identity.clone()),
            Self::Model {
                source,
                quantize,
                kv_dtype,
            } => (source, quantize, kv_dtype),
        };
        let quantize = quantize.map_or("none".to_owned(), |quantize| quantize.to_string());
        let order = match cfg!(target_endian = "little") {
            true => "little",
            false => "big",
        };
        let arithmetic = match device.cuda_info() {
            Some(info) => format!("cuda {:?}", info.compute_capability),
            None => device.isa().to_string(),
        };
        let block = format!("{BLOCK_SIZE} tokens in {} bytes", pool.block_bytes());
        let parts = [
            ("arithmetic", format!("{arithmetic}, {order}-endian")),
            ("blocks", block),
            ("configuration", source.config().to_json().to_string()),
            ("engine version", env!("CARGO_PKG_VERSION").to_owned()),
            ("kv_dtype", kv_dtype.to_string()),
            ("quantisation", quantize),
            ("weights", weights(source)?),
        ];
        let identity = Identity::from(parts.map(|(name, value)| (name.to_owned(), value)));
        *self = Self::Named(identity.clone());
        Ok(identity)
    }
}

/// The CRC-32 of every tensor with its name, type and shape: two checkpoints are alike if all of them are. A size and a date would be
/// cheaper, and wrong for a file that was copied or changed in place.
fn weights(source: &ModelSource) -> Result<String, PrefixCacheError> {
    if let ModelSource::Random(random) = source {
        return Ok(format!("{} of seed {}", random.name(), random.seed()));
    }
    let sum = |name: &str| -> Result<String, BuildError> {
        let tensor = source.read(name)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(format!("{:?}", tensor.spec).as_bytes());
        // Piece by piece, so that no more of the file need be in memory at a time.
        for piece in tensor.bytes.chunks(PIECE_BYTES) {
            crc.update(piece);
            source.release(piece);
        }
        Ok(format!("{:08x}", crc.finalize()))
    };
    let sums = source.tensors().iter().map(|spec| sum(&spec.name));
    let sums: Result<Vec<_>, _> = sums.collect();
    Ok(sums
        .map_err(|error| PrefixCacheError::Weights(error.to_string()))?
        .join(" "))
}

/// A multiple of every page size.
const PIECE_BYTES: usize = 16 << 20;
