//! Activations as pairs of bf16, for a matrix unit that multiplies such numbers.

use half::bf16;

use crate::memory::Buffer;
use crate::parallel::SharedMut;
use crate::{Device, KernelError};

/// Tokens of a tile, which has a row for each half.
pub(super) const TOKENS: usize = 8;
/// Columns that a tile spans.
pub(super) const STEP: usize = 32;
/// Values of a step of a tile.
pub(super) const STEP_LEN: usize = 2 * TOKENS * STEP;

/// `[T, cols]` activations, each as `high + low`: the nearest bf16 and what is left, rounded. Together they have 16 bits of mantissa or more, so
/// products with bf16 weights are nearly those of f32.
///
/// A tile holds eight tokens: a step of 32 columns of their high parts, row by row, then of their low parts; then the next step. What columns and
/// tokens lack is filled up with zeros.
pub(super) struct Bf16Rows {
    tile_len: usize,
    values: Buffer,
}

impl Bf16Rows {
    /// Splits the rows of `x`, `[T, cols]`, on all threads of the device.
    pub fn new(device: &Device, x: &[f32], cols: usize) -> Result<Self, KernelError> {
        let tokens = x.len() / cols;
        let tile_len = cols.div_ceil(STEP) * STEP_LEN;
        let len = tokens.div_ceil(TOKENS) * tile_len;
        let mut values = device.allocate(len * size_of::<bf16>())?;
        let shared = SharedMut::new(values.as_slice_of_mut::<bf16>());
        device.pool().for_each(tokens.div_ceil(TOKENS), |tile| {
            // SAFETY: each task has its own tile.
            let to = unsafe { shared.slice(tile * tile_len, tile_len) };
            to.fill(bf16::ZERO);
            let rows = x[tile * TOKENS * cols..].chunks_exact(cols).take(TOKENS);
            for (i, row) in rows.enumerate() {
                for (x, to) in row.chunks(STEP).zip(to.chunks_exact_mut(STEP_LEN)) {
                    let (high, low) = to.split_at_mut(TOKENS * STEP);
                    split(x, &mut high[i * STEP..], &mut low[i * STEP..]);
                }
            }
        });
        Ok(Self { tile_len, values })
    }

    /// The steps of tile `index`.
    pub fn tile(&self, index: usize) -> &[bf16] {
        &self.values.as_slice_of::<bf16>()[index * self.tile_len..][..self.tile_len]
    }
}

fn split(x: &[f32], high: &mut [bf16], low: &mut [bf16]) {
    for ((x, high), low) in x.iter().zip(high).zip(low) {
        *high = bf16::from_f32(*x);
        let left = x - high.to_f32();
        // An infinity has no remainder, and one that were NaN would turn the sum into NaN.
        *low = bf16::from_f32(if x.is_infinite() { 0.0 } else { left });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuOptions;

    #[test]
    fn parts_add_up_and_the_rest_is_zero() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let (tokens, cols) = (11, 70);
        let x: Vec<f32> = (0..tokens * cols)
            .map(|i| ((i * 7919 % 10_007) as f32 - 5000.0) * 1.234e-3)
            .collect();
        let rows = Bf16Rows::new(&device, &x, cols).unwrap();
        for t in 0..2 * TOKENS {
            for c in 0..96 {
                let at = c / STEP * STEP_LEN + t % TOKENS * STEP + c % STEP;
                let tile = rows.tile(t / TOKENS);
                let (high, low) = (tile[at].to_f32(), tile[at + TOKENS * STEP].to_f32());
                let want = if t < tokens && c < cols {
                    x[t * cols + c]
                } else {
                    0.0
                };
                assert!(
                    (high + low - want).abs() <= want.abs() / 65536.0,
                    "[{t}, {c}]"
                );
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let rows = Bf16Rows::new(&device, &[f32::NAN, f32::INFINITY, 1e39f64 as f32], 3).unwrap();
        assert!(rows.tile(0)[0].is_nan());
        let low = TOKENS * STEP;
        assert_eq!(rows.tile(0)[1], bf16::INFINITY);
        assert_eq!(rows.tile(0)[low + 1], bf16::ZERO);
    }
}
