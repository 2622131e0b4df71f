//! Activations rounded to 8 bits, once per matrix product, for the weights with integer codes.
//!
//! Every format shares one form: blocks of 32 columns with an f32 scale, `x ≈ scale * code`, `|code| <= 127`. Beside the codes stand the sums that
//! zero points and minima of weights are multiplied with. A block depends on its own 32 values alone, so a token's codes do not depend on the batch.

use crate::memory::Buffer;
use crate::parallel::SharedMut;
use crate::{Device, Isa, KernelError};

use super::layout::BLOCK_COLS;

/// The numbers beside a block of codes, all exact or once rounded f32. Sums of codes are integers below `2^24`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct BlockInfo {
    /// The value of a code of one.
    pub scale: f32,
    /// The sum of the codes.
    pub sum: f32,
    /// The sums of the first and of the last 16 codes.
    pub half_sums: [f32; 2],
    /// `scale * sum`.
    pub scaled_sum: f32,
    /// `scale * half_sums`.
    pub scaled_half_sums: [f32; 2],
    _padding: f32, // eight numbers: a block's information does not straddle cache lines
}

/// How many f32 a [`BlockInfo`] is.
const INFO_LEN: usize = 8;
const _: () = assert!(size_of::<BlockInfo>() == INFO_LEN * size_of::<f32>());

/// `[T, cols]` activations as codes.
pub(super) struct QuantizedRows {
    cols: usize,
    codes: Buffer,
    info: Buffer,
}

impl QuantizedRows {
    /// Rounds the rows of `x`, `[T, cols]` with `cols` a multiple of 32, on all threads of the device.
    pub fn new(device: &Device, x: &[f32], cols: usize) -> Result<Self, KernelError> {
        debug_assert!(cols.is_multiple_of(BLOCK_COLS) && x.len().is_multiple_of(cols));
        let blocks = x.len() / BLOCK_COLS;
        let mut codes = device.allocate(x.len())?;
        let mut info = device.allocate(blocks * size_of::<BlockInfo>())?;
        let isa = device.isa();
        let (shared_codes, shared_info) = (
            SharedMut::new(codes.as_slice_of_mut::<i8>()),
            SharedMut::new(info.as_slice_of_mut::<f32>()),
        );
        device
            .pool()
            .for_each_range(blocks, MIN_BLOCKS_PER_TASK, |range| {
                let (start, len) = (range.start, range.len());
                // SAFETY: the ranges of tasks do not overlap, so neither do these parts.
                let (codes, info) = unsafe {
                    (
                        shared_codes.slice(start * BLOCK_COLS, len * BLOCK_COLS),
                        shared_info.slice(start * INFO_LEN, len * INFO_LEN),
                    )
                };
                quantize(
                    isa,
                    &x[start * BLOCK_COLS..][..len * BLOCK_COLS],
                    codes,
                    info,
                );
            });
        Ok(Self { cols, codes, info })
    }

    /// The codes of row `t`.
    pub fn codes(&self, t: usize) -> &[i8] {
        &self.codes.as_slice_of::<i8>()[t * self.cols..][..self.cols]
    }

    /// The blocks of row `t`.
    pub fn info(&self, t: usize) -> &[BlockInfo] {
        let blocks = self.cols / BLOCK_COLS;
        let numbers = &self.info.as_slice_of::<f32>()[t * blocks * INFO_LEN..][..blocks * INFO_LEN];
        // SAFETY: a `BlockInfo` is eight f32 without padding (asserted above) and `repr(C)`, so the numbers are `blocks` of them.
        unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), blocks) }
    }
}

/// Fewer blocks than this (64 thousand values, some 10 µs of work) are not worth waking a thread for.
const MIN_BLOCKS_PER_TASK: usize = 2048;

fn quantize(isa: Isa, x: &[f32], codes: &mut [i8], info: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the token is the proof that the CPU has these instructions.
        Isa::Avx2(_) | Isa::Avx512(_) | Isa::Amx(_) => unsafe { quantize_avx2(x, codes, info) },
        Isa::Scalar => quantize_blocks(x, codes, info),
    }
}

/// The same code, compiled for wider vectors. (No fused operation occurs in it, so the result is the same to the bit.)
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn quantize_avx2(x: &[f32], codes: &mut [i8], info: &mut [f32]) {
    quantize_blocks(x, codes, info);
}

#[inline(always)]
fn quantize_blocks(x: &[f32], codes: &mut [i8], info: &mut [f32]) {
    let blocks = x.as_chunks::<BLOCK_COLS>().0.iter();
    let outputs = codes
        .as_chunks_mut::<BLOCK_COLS>()
        .0
        .iter_mut()
        .zip(info.as_chunks_mut::<INFO_LEN>().0);
    for (x, (codes, info)) in blocks.zip(outputs) {
        // Magnitudes compare as integers, and NaN is the largest: it reaches the scale, and so the result, instead of vanishing.
        let largest = x
            .iter()
            .fold(0u32, |max, value| max.max(value.to_bits() & 0x7fff_ffff));
        let scale = f32::from_bits(largest) / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let mut sums = [0i32; 2];
        for (half, sum) in sums.iter_mut().enumerate() {
            for i in 16 * half..16 * (half + 1) {
                // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
                codes[i] = (x[i] * inverse + 12_582_912.0).to_bits() as i8;
                *sum += i32::from(codes[i]);
            }
        }
        let [low, high] = sums.map(|sum| sum as f32);
        *info = [
            scale,
            low + high,
            low,
            high,
            scale * (low + high),
            scale * low,
            scale * high,
            0.0,
        ];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuOptions;

    fn quantized(isa: Isa, x: &[f32], cols: usize) -> QuantizedRows {
        let device = Device::cpu(CpuOptions {
            threads: Some(2),
            isa: Some(isa),
        })
        .unwrap();
        QuantizedRows::new(&device, x, cols).unwrap()
    }

    #[test]
    fn codes_are_within_half_a_step_and_sums_are_exact() {
        let x: Vec<f32> = (0..128)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.173)
            .collect();
        for isa in Isa::available() {
            let rows = quantized(isa, &x, 64);
            for t in 0..2 {
                for (b, info) in rows.info(t).iter().enumerate() {
                    let codes = &rows.codes(t)[b * 32..][..32];
                    let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
                    let low: i32 = codes[..16].iter().map(|code| i32::from(*code)).sum();
                    assert_eq!(
                        (info.sum, info.half_sums),
                        (sum as f32, [low as f32, (sum - low) as f32])
                    );
                    assert_eq!(info.scaled_sum, info.scale * sum as f32);
                    assert_eq!(
                        info.scaled_half_sums,
                        info.half_sums.map(|sum| info.scale * sum)
                    );
                    for (x, code) in x[t * 64 + b * 32..].iter().zip(codes) {
                        assert!((x - info.scale * f32::from(*code)).abs() <= 0.501 * info.scale);
                        assert!(*code >= -127);
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zero_and_nan_reaches_the_scale() {
        for isa in Isa::available() {
            let zeros = quantized(isa, &[0.0; 32], 32);
            assert!(zeros.codes(0).iter().all(|code| *code == 0) && zeros.info(0)[0].scale == 0.0);
            let mut x = [1.0; 32];
            x[7] = f32::NAN;
            assert!(quantized(isa, &x, 32).info(0)[0].scale.is_nan());
        }
    }
}
