//! Opening and loading a draft model beside the model it guesses for.

use glm_core::{Checkpoint, DenseConfig, LoadError, Tokenizer};
use glm_kernels::Device;

use super::EngineOptions;
use super::open::{Sizes, load_model};
use crate::error::BuildError;
use crate::kv::BLOCK_SIZE;
use crate::load::{ModelSource, Quantization, WeightLoader, weight_bytes};
use crate::memory::kv_bytes_per_token;
use crate::scheduler::UNMEASURED_PREFILL_TOKENS;
use crate::speculate::{DraftModel, Speculation};

/// A draft model that fits its target, before its weights are read.
pub(super) struct OpenedDraft {
    source: ModelSource,
    quantize: Option<Quantization>,
}

impl OpenedDraft {
    /// Opens the draft model that `options` name, if any, and compares its vocabulary with that of `target`.
    ///
    /// # Errors
    /// [`BuildError::DraftVocabulary`], and whatever is wrong with the draft model itself.
    pub(super) fn open(
        options: &EngineOptions,
        target: &ModelSource,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Option<Self>, BuildError> {
        let Speculation::DraftModel { model, .. } = &options.speculation else {
            return Ok(None);
        };
        let source = ModelSource::open(model, &options.open_options(), options.seed.unwrap_or(0))?;
        let own = match source.checkpoint().map(Checkpoint::tokenizer).transpose() {
            Err(LoadError::NoTokenizer { .. }) => None,
            tokenizer => tokenizer?,
        };
        let rows = [&source, target].map(|source| source.config().dense().vocab_size);
        if let Some(difference) = difference(rows, own.as_ref(), tokenizer) {
            return Err(BuildError::DraftVocabulary {
                draft: source.name().to_owned(),
                model: target.name().to_owned(),
                difference,
            });
        }
        Ok(Some(Self {
            source,
            quantize: options.quantize, // checked for the model
        }))
    }

    /// What it is.
    pub(super) fn config(&self) -> &DenseConfig {
        self.source.config().dense()
    }

    /// Bytes of its weights on `device`.
    pub(super) fn weight_bytes(&self, device: &Device) -> u64 {
        weight_bytes(&self.source, self.quantize, Some(device))
    }

    /// Bytes of its KV cache, which holds as many tokens as its target's.
    pub(super) fn kv_bytes(&self, sizes: &Sizes) -> u64 {
        let tokens = (sizes.num_blocks * BLOCK_SIZE) as u64;
        kv_bytes_per_token(self.config(), sizes.kv_dtype).saturating_mul(tokens)
    }

    /// Most tokens of a text that it has not seen in a step: as many as take it as long as a few prompt tokens take the model.
    fn max_num_prefill_tokens(&self, device: &Device, sizes: &Sizes, target_bytes: u64) -> usize {
        let times_smaller = (target_bytes / self.weight_bytes(device).max(1)).max(1);
        let times_smaller = usize::try_from(times_smaller).unwrap_or(usize::MAX);
        let tokens = sizes.scheduler.max_num_prefill_tokens;
        let tokens = tokens.min(UNMEASURED_PREFILL_TOKENS);
        let most = sizes.scheduler.max_num_batched_tokens;
        tokens.saturating_mul(times_smaller).min(most)
    }

    /// Reads its weights; those of the model take `target_bytes`.
    pub(super) fn load(
        &self,
        device: &Device,
        sizes: &Sizes,
        target_bytes: u64,
        options: &EngineOptions,
    ) -> Result<DraftModel, BuildError> {
        let progress = options.progress.as_deref();
        let mut loader = WeightLoader::new(&self.source, device, self.quantize, progress);
        let model = load_model(&self.source, &mut loader)?;
        Ok(DraftModel::new(
            device,
            model,
            sizes.kv_dtype,
            sizes.num_blocks,
            self.max_num_prefill_tokens(device, sizes, target_bytes),
        )?)
    }
}

/// The first difference between two vocabularies. Models that come without a tokenizer have no other than their number of rows.
fn difference(
    [draft_rows, rows]: [usize; 2],
    draft: Option<&Tokenizer>,
    target: Option<&Tokenizer>,
) -> Option<String> {
    if draft_rows != rows {
        return Some(format!("it has {draft_rows} tokens, not {rows}"));
    }
    let (draft, target) = (draft?, target?);
    let differs = |&id: &u32| draft.token_bytes(id) != target.token_bytes(id);
    let id = (0..rows as u32).find(differs)?;
    let text = |tokenizer: &Tokenizer| tokenizer.id_to_token(id).unwrap_or_default().to_owned();
    Some(format!(
        "token {id} is {:?}, not {:?}",
        text(draft),
        text(target)
    ))
}
