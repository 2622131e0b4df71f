//! Storage formats of weights, scalar: reading every GGML block format and writing the common ones.
//!
//! The functions here work on GGML's on-disk layout and are exact: [`dequantize`] gives the very f32 numbers of GGML's reference, and
//! [`quantize`] follows its reference quantisers. The packed forms that matrix products read are in `linear`.

mod block;
mod encode;
mod format;
mod search;

pub(crate) use block::{Block, IQ4_LEVELS, MAX_BLOCK};
pub(crate) use encode::to_e4m3;
pub use format::WeightFormat;

use half::{bf16, f16};

use crate::KernelError;

/// Turns stored values into f32, exactly.
///
/// - `bytes`: whole blocks of `format`, in GGML's on-disk layout (little-endian);
/// - `out`: one element per stored value.
///
/// # Errors
/// [`KernelError::PartialBlock`] unless `out` is a whole number of blocks; [`KernelError::Length`] unless `bytes` holds just those blocks.
///
/// Source: `dequantize_row_*` in llama.cpp's `ggml-quants.c`; checked against gguf-py's independent implementation.
pub fn dequantize(format: WeightFormat, bytes: &[u8], out: &mut [f32]) -> Result<(), KernelError> {
    check("dequantize", format, out.len(), bytes.len())?;
    match format {
        WeightFormat::F32 => words::<4>(bytes, out, f32::from_le_bytes),
        WeightFormat::F16 => words::<2>(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        WeightFormat::BF16 => words::<2>(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        _ => {
            let mut block = Block::default();
            for (bytes, out) in bytes
                .chunks_exact(format.block_bytes())
                .zip(out.chunks_exact_mut(format.block_len()))
            {
                block.read(format, bytes);
                block.values(format, out);
            }
        }
    }
    Ok(())
}

/// Whether [`quantize`] can write `format`.
pub const fn can_quantize(format: WeightFormat) -> bool {
    !matches!(
        format,
        WeightFormat::Q2K | WeightFormat::Q3K | WeightFormat::Iq4Nl | WeightFormat::Iq4Xs
    )
}

/// Rounds f32 values to `format`.
///
/// - `values`: a whole number of blocks;
/// - `out`: the bytes of those blocks, in GGML's on-disk layout.
///
/// # Errors
/// [`KernelError::CannotQuantize`] unless [`can_quantize`]; [`KernelError::PartialBlock`] unless `values` is a whole number of blocks;
/// [`KernelError::Length`] unless `out` holds just those blocks.
///
/// Source: `quantize_row_*_ref` in llama.cpp's `ggml-quants.c`.
pub fn quantize(format: WeightFormat, values: &[f32], out: &mut [u8]) -> Result<(), KernelError> {
    if !can_quantize(format) {
        return Err(KernelError::CannotQuantize(format));
    }
    check("quantize", format, values.len(), out.len())?;
    match format {
        WeightFormat::F32 => to_words(values, out, f32::to_le_bytes),
        WeightFormat::F16 => to_words(values, out, |value| f16::from_f32(value).to_le_bytes()),
        WeightFormat::BF16 => to_words(values, out, |value| bf16::from_f32(value).to_le_bytes()),
        _ => blocks(format, values, out),
    }
    Ok(())
}

/// Writes blocks one after the other, with wide vectors where the CPU has them: the searches of the K-quants take most of the time of rounding a
/// model. No operation is fused, so the bytes are the same.
fn blocks(format: WeightFormat, values: &[f32], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if crate::Avx2::detect().is_some() {
        // SAFETY: AVX2 was detected.
        return unsafe { blocks_avx2(format, values, out) };
    }
    encode::blocks(format, values, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn blocks_avx2(format: WeightFormat, values: &[f32], out: &mut [u8]) {
    encode::blocks(format, values, out);
}

/// `values` values are whole blocks of `format`, and `bytes` bytes are those blocks.
fn check(
    op: &'static str,
    format: WeightFormat,
    values: usize,
    bytes: usize,
) -> Result<(), KernelError> {
    let partial = KernelError::PartialBlock {
        format,
        columns: values,
        block_len: format.block_len(),
    };
    let expected = format.row_bytes(values).ok_or(partial)?;
    if bytes != expected {
        return Err(KernelError::Length {
            op,
            name: "bytes",
            expected,
            found: bytes,
        });
    }
    Ok(())
}

fn words<const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    let (words, _) = bytes.as_chunks::<N>();
    out.iter_mut()
        .zip(words)
        .for_each(|(out, word)| *out = read(*word));
}

fn to_words<const N: usize>(values: &[f32], out: &mut [u8], write: impl Fn(f32) -> [u8; N]) {
    let (words, _) = out.as_chunks_mut::<N>();
    words
        .iter_mut()
        .zip(values)
        .for_each(|(word, value)| *word = write(*value));
}

#[cfg(test)]
mod tests;
