//! The launch: a block per row, whose tokens are listed in shared memory once it is known which of them
//! can be chosen.
//!
//! Bytes: 600 KB a row of 151,552 logits, from the second-level cache, read once for the most likely token
//! alone and three times to draw. By that, one multiprocessor should take about 6 µs for each, and some
//! 2 µs to sort hundreds of tokens: 20 µs for up to as many rows as there are multiprocessors. Not measured.

use super::{OP, SampleRule, SampledToken, mask_of, reference};
use crate::cuda::{CudaDevice, LaunchConfig, size_arg};
use crate::{Indices, KernelError, Tensor};

const THREADS: u32 = 512;

/// What the kernel writes instead of a token; as in `sample.cu`.
const NOT_FINITE: u32 = u32::MAX;
const LEFT_TO_HOST: u32 = u32::MAX - 1;

/// `Rules` of `sample.cu`, word by word.
fn words(rule: &SampleRule) -> [u32; 8] {
    [
        rule.temperature.to_bits(),
        rule.top_k,
        rule.top_p.to_bits(),
        rule.min_p.to_bits(),
        rule.uniform as u32,
        (rule.uniform >> 32) as u32,
        rule.mask.unwrap_or(u32::MAX),
        rule.logprob.into(),
    ]
}

pub(super) fn sample(
    cuda: &CudaDevice,
    logits: &Tensor,
    rules: &[SampleRule],
    masks: &Indices,
) -> Result<Vec<SampledToken>, KernelError> {
    let (rows, len) = logits.dims2(OP, "logits")?;
    let rules_on_device: Indices = rules.iter().flat_map(words).collect::<Vec<_>>().into();
    let out = cuda.allocate(rows * size_of::<[u32; 2]>())?;
    let args = [
        logits.cuda_ptr(OP, "logits", cuda)?.into(),
        rules_on_device.cuda_ptr(cuda)?.into(),
        masks.cuda_ptr(cuda)?.into(),
        out.ptr().into(),
        size_arg(OP, "columns of logits", len)?.into(),
    ];
    let kernel = cuda.kernel("sample", "sample")?;
    let config = LaunchConfig::linear(size_arg(OP, "rows", rows)?, THREADS).overlapping();
    // SAFETY: there is a rule and room for a result for each row, and masks are whole and there.
    unsafe { cuda.launch(kernel, &config, &args)? };
    let mut results = vec![0; rows * size_of::<[u32; 2]>()];
    out.copy_out(0, &mut results)?;

    let mut on_host = None;
    let word = |bytes: &[u8]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let results = results.chunks_exact(8).zip(rules).enumerate();
    let sampled = results.map(|(row, (result, rule))| match word(result) {
        NOT_FINITE => Ok(SampledToken {
            id: None,
            logprob: None,
        }),
        LEFT_TO_HOST => {
            let logits = match &on_host {
                Some(logits) => logits,
                None => on_host.insert(logits.to_host()?),
            };
            let row = &logits.as_f32()?[row * len..][..len];
            Ok(reference::sample(row, rule, mask_of(masks, rule, len)))
        }
        id => Ok(SampledToken {
            id: Some(id),
            logprob: rule.logprob.then(|| f32::from_bits(word(&result[4..]))),
        }),
    });
    sampled.collect()
}
