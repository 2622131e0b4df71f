//! The launch: a block per row, whose tokens are listed in shared memory once it is known which of them
//! can be chosen.
//!
//! Bytes: 600 KB a row of 151,552 logits, from the second-level cache, read once for the most likely token
//! alone and three times to draw; once more for log-probabilities, and once for each of the most likely
//! tokens. By that, one multiprocessor should take about 6 µs for each, and some 2 µs to sort hundreds of
//! tokens: 20 µs for up to as many rows as there are multiprocessors. Rows so flat that more than 4096 tokens
//! can be chosen are read some twenty times for each limit. Not measured.

use std::sync::Arc;

use super::{LogitEdit, OP, SampleLists, SampleRule, SampledToken};
use crate::cuda::{CudaDevice, DeviceBuffer, DevicePtr, LaunchConfig, PendingCopy, size_arg};
use crate::tensor::bytes_of;
use crate::{KernelError, Tensor};

const MODULE: &str = "sample";
const THREADS: u32 = 512;

/// What the kernel writes instead of a token; as in `sample.cu`.
const NO_TOKEN: u32 = u32::MAX;

/// Words of `Rules` of `sample.cu`.
const RULE_WORDS: usize = 12;

/// `Rules` of `sample.cu`, word by word.
fn rule_words(rule: &SampleRule) -> [u32; RULE_WORDS] {
    [
        rule.temperature.to_bits(),
        rule.top_k,
        rule.top_p.to_bits(),
        rule.min_p.to_bits(),
        rule.uniform as u32,
        (rule.uniform >> 32) as u32,
        rule.mask.unwrap_or(u32::MAX),
        rule.logprob.into(),
        rule.top as u32,
        rule.edits.start,
        rule.edits.len() as u32,
        0,
    ]
}

/// `Edit` of `sample.cu`, word by word.
fn edit_words(edit: &LogitEdit) -> [u32; 4] {
    [
        edit.id,
        edit.bias.to_bits(),
        edit.repetition.to_bits(),
        edit.penalty.to_bits(),
    ]
}

/// Tokens that a device was asked for.
pub(super) struct Launched {
    ids: SampledIds,
    results: PendingCopy,
    /// Of each row what is wanted besides the token: [`SampleRule::logprob`] and [`SampleRule::top`].
    wanted: Vec<(bool, usize)>,
}

/// Where a device leaves the ids that it chooses.
#[derive(Clone)]
pub(crate) struct SampledIds {
    /// `[rows, stride]` words, the ids first.
    results: Arc<DeviceBuffer>,
    pub(crate) rows: usize,
    stride: usize,
    /// All ids are below this.
    pub(crate) end: u32,
}

pub(super) fn sample(
    cuda: &CudaDevice,
    logits: &mut Tensor,
    rules: &[SampleRule],
    lists: &SampleLists,
) -> Result<Launched, KernelError> {
    let (rows, len) = logits.dims2(OP, "logits")?;
    logits.expect_dtype(OP, crate::DType::F32)?;
    let most = rules.iter().map(|rule| rule.top).max().unwrap_or(0);
    let stride = 2 + 2 * most;
    let words = rules.iter().flat_map(rule_words);
    let words: Vec<u32> = words
        .chain(lists.edits.iter().flat_map(edit_words))
        .collect();
    let mut asked = cuda.allocate(size_of_val(&words[..]))?;
    asked.copy_in(0, bytes_of(&words))?;
    let results = cuda.allocate(rows * stride * size_of::<u32>())?;
    let len = size_arg(OP, "columns of logits", len)?;
    let args = [
        logits.cuda_ptr_mut(OP, "logits", cuda)?.into(),
        asked.ptr().into(),
        asked
            .ptr()
            .offset(rows * RULE_WORDS * size_of::<u32>())
            .into(),
        lists.masks.cuda_ptr(cuda)?.into(),
        results.ptr().into(),
        len.into(),
        (stride as u32).into(),
    ];
    let kernel = cuda.kernel(MODULE, "sample")?;
    let config = LaunchConfig::linear(size_arg(OP, "rows", rows)?, THREADS).overlapping();
    // SAFETY: there is a rule and room for a result for each row; masks are whole and there, edits are there and of tokens
    // that are. They and the rules are this launch's own, and logits nobody else's.
    unsafe { cuda.launch(kernel, &config, &args)? };
    Ok(Launched {
        results: results.copy_out_later()?,
        ids: SampledIds {
            results: Arc::new(results),
            rows,
            stride,
            end: len,
        },
        wanted: rules.iter().map(|rule| (rule.logprob, rule.top)).collect(),
    })
}

impl Launched {
    pub(super) fn ids(&self) -> &SampledIds {
        &self.ids
    }

    pub(super) fn wait(self) -> Result<Vec<SampledToken>, KernelError> {
        let results = self.results.wait()?;
        let word = |bytes: &[u8]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let words: Vec<u32> = results.chunks_exact(size_of::<u32>()).map(word).collect();
        let rows = words.chunks_exact(self.ids.stride).zip(self.wanted);
        Ok(rows.map(|(row, wanted)| token(row, wanted)).collect())
    }
}

/// The token of a row of results.
fn token(row: &[u32], (logprob, top): (bool, usize)) -> SampledToken {
    let id = Some(row[0]).filter(|id| *id != NO_TOKEN);
    let top = row[2..].chunks_exact(2).take(top);
    let top = top.take_while(|pair| id.is_some() && pair[0] != NO_TOKEN);
    SampledToken {
        id,
        logprob: id.filter(|_| logprob).map(|_| f32::from_bits(row[1])),
        top: top.map(|pair| (pair[0], f32::from_bits(pair[1]))).collect(),
    }
}

impl SampledIds {
    /// Puts ids in the place of `count` numbers at `list` that say which row's, behind all that is queued.
    ///
    /// # Errors
    /// [`KernelError::OtherDevice`] if they are elsewhere; the device's.
    ///
    /// # Safety
    /// There are so many numbers, below [`Self::rows`], and nobody else uses them.
    pub(crate) unsafe fn put(
        &self,
        cuda: &CudaDevice,
        list: DevicePtr,
        count: usize,
    ) -> Result<(), KernelError> {
        const THREADS: u32 = 256;
        if !cuda.owns(&self.results) {
            return Err(KernelError::OtherDevice {
                op: OP,
                name: "sampled ids",
                expected: cuda.name(),
                found: "another device".to_owned(),
            });
        }
        let count = size_arg(OP, "ids", count)?;
        let args = [
            list.into(),
            count.into(),
            self.results.ptr().into(),
            (self.stride as u32).into(),
        ];
        let kernel = cuda.kernel(MODULE, "sample_ids")?;
        let config = LaunchConfig::linear(count.div_ceil(THREADS), THREADS).overlapping();
        // SAFETY: the caller's promise; there is a result for each row.
        unsafe { cuda.launch(kernel, &config, &args) }
    }
}
