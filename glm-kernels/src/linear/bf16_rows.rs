//! Activations as pairs of bf16, for a matrix unit that multiplies such numbers.

use half::bf16;

use crate::memory::Buffer;
use crate::parallel::SharedMut;
use crate::{Device, KernelError};

/// Tokens of a tile.
pub(super) const TOKENS: usize = 16;
/// Columns that a tile spans.
pub(super) const STEP: usize = 32;
/// Values of a step: the tile of high parts, then that of low parts.
pub(super) const STEP_LEN: usize = 2 * TOKENS * STEP;
/// Steps of a chunk.
pub(super) const CHUNK_STEPS: usize = 8;

/// `[T, cols]` activations, each as `high + low`: the nearest bf16 and what is left, rounded. Together they have 16 bits of mantissa or more, so
/// products with bf16 weights are nearly those of f32.
///
/// They lie as they are used, chunk of columns by chunk, and in it one tile of tokens after the other; what columns and tokens lack is filled up with
/// zeros.
pub(super) struct Bf16Rows {
    tiles: usize,
    values: Buffer,
}

impl Bf16Rows {
    /// Splits the rows of `x`, `[T, cols]`, on all threads of the device.
    pub fn new(device: &Device, x: &[f32], cols: usize) -> Result<Self, KernelError> {
        let tiles = (x.len() / cols).div_ceil(TOKENS);
        let steps = cols.div_ceil(STEP);
        let len = steps.next_multiple_of(CHUNK_STEPS) * tiles * STEP_LEN;
        let mut rows = Self {
            tiles,
            values: device.allocate(len * size_of::<bf16>())?,
        };
        let values = SharedMut::new(rows.values.as_slice_of_mut::<bf16>());
        device.pool().for_each(tiles, |tile| {
            let rows = || x[tile * TOKENS * cols..].chunks_exact(cols).take(TOKENS);
            for step in 0..steps {
                // SAFETY: each task has its own tile.
                let to = unsafe { values.slice(start(tiles, tile, step), STEP_LEN) };
                to.fill(bf16::ZERO);
                let (high, low) = to.split_at_mut(TOKENS * STEP);
                let parts = high.chunks_exact_mut(STEP).zip(low.chunks_exact_mut(STEP));
                for (row, (high, low)) in rows().zip(parts) {
                    split(&row[step * STEP..cols.min((step + 1) * STEP)], high, low);
                }
            }
        });
        Ok(rows)
    }

    /// Step `step` of tile `tile`; the others of its chunk follow.
    pub fn step(&self, tile: usize, step: usize) -> *const bf16 {
        self.values.as_slice_of::<bf16>()[start(self.tiles, tile, step)..].as_ptr()
    }
}

/// Where step `step` of tile `tile` starts.
fn start(tiles: usize, tile: usize, step: usize) -> usize {
    let (chunk, step) = (step / CHUNK_STEPS, step % CHUNK_STEPS);
    ((chunk * tiles + tile) * CHUNK_STEPS + step) * STEP_LEN
}

fn split(x: &[f32], high: &mut [bf16], low: &mut [bf16]) {
    for ((x, high), low) in x.iter().zip(high).zip(low) {
        *high = bf16::from_f32(*x);
        let left = x - high.to_f32();
        // An infinity has no remainder, and one that were NaN would turn the sum into NaN.
        *low = bf16::from_f32(if high.is_infinite() { 0.0 } else { left });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuOptions;

    #[test]
    fn parts_add_up_and_the_rest_is_zero() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let (tokens, cols) = (19, 300);
        let x: Vec<f32> = (0..tokens * cols)
            .map(|i| ((i * 7919 % 10_007) as f32 - 5000.0) * 1.234e-3)
            .collect();
        let rows = Bf16Rows::new(&device, &x, cols).unwrap();
        for t in 0..2 * TOKENS {
            for c in 0..320 {
                let at = t % TOKENS * STEP + c % STEP;
                let step = rows.step(t / TOKENS, c / STEP);
                // SAFETY: a step has so many values.
                let [high, low] =
                    [at, at + TOKENS * STEP].map(|at| unsafe { step.add(at).read() }.to_f32());
                let want = if t < tokens && c < cols {
                    x[t * cols + c]
                } else {
                    0.0
                };
                let error = (high + low - want).abs();
                assert!(error <= want.abs() / 65536.0, "[{t}, {c}]");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let (mut high, mut low) = ([bf16::ZERO; 4], [bf16::ZERO; 4]);
        split(
            &[f32::NAN, f32::INFINITY, f32::MAX, -0.0],
            &mut high,
            &mut low,
        );
        assert!(high[0].is_nan());
        assert_eq!(high[1..3], [bf16::INFINITY; 2]);
        assert_eq!(low[1..], [bf16::ZERO; 3]);
    }
}
