//! Kernels that cannot be tried on the CPU prove themselves on the device.

use super::activations::Activations;
use super::launch::Rows;
use crate::cuda::{CudaDevice, DeviceBuffer, DevicePtr};
use crate::{KernelError, WeightFormat};

/// Values that a product leaves alone between the results of two tokens, as that of a part of a weight does.
const GAP: usize = 64;

/// Whether `multiply` gives the products of the general kernel, up to rounding, three times over, or says that it does not do them: for random bf16
/// weights, so many tokens, rows and columns (whole chunks) of them. What is not written is not a number, and what lies between the results has to stay so.
pub(super) fn agrees(
    cuda: &CudaDevice,
    [tokens, rows, columns]: [usize; 3],
    biased: bool,
    multiply: impl Fn(&mut Activations<'_>, &Rows) -> Result<bool, KernelError>,
) -> Result<bool, KernelError> {
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let weights: Vec<u8> = (0..rows * columns)
        .flat_map(|_| half::bf16::from_f32(random()).to_le_bytes())
        .collect();
    let x: Vec<u8> = (0..tokens * columns)
        .flat_map(|_| random().to_le_bytes())
        .collect();
    let bias: Vec<u8> = (0..rows).flat_map(|_| random().to_le_bytes()).collect();
    let (weights, x, bias) = (
        upload(cuda, &weights)?,
        upload(cuda, &x)?,
        upload(cuda, &bias)?,
    );
    let mut activations = Activations::new(cuda, x.ptr(), tokens, columns)?;
    let stride = rows + GAP;
    let mut product = |general: bool| {
        let mut out = cuda.allocate(tokens * stride * size_of::<f32>())?;
        out.fill(0xff)?;
        let rows = Rows {
            format: WeightFormat::BF16,
            weights: weights.ptr(),
            rows: rows as u32,
            bias: if biased { bias.ptr() } else { DevicePtr(0) },
            out: out.ptr(),
            stride: stride as u32,
        };
        if general {
            activations.gemm(&rows, 128)?;
        } else if !multiply(&mut activations, &rows)? {
            return Ok(None);
        }
        let mut bytes = vec![0; out.len()];
        out.copy_out(0, &mut bytes)?;
        let values = bytes.as_chunks().0.iter();
        let values = values.map(|word| f32::from_le_bytes(*word));
        Ok::<_, KernelError>(Some(values.collect::<Vec<_>>()))
    };
    let want = product(true)?.unwrap_or_default();
    for _ in 0..3 {
        let Some(got) = product(false)? else {
            return Ok(true);
        };
        // Sums of hundreds of products below 1, in two orders; written so that NaN fails.
        let near = |(got, want): (&f32, &f32)| (got - want).abs() <= 1e-3;
        let same = got
            .chunks(stride)
            .zip(want.chunks(stride))
            .all(|(got, want)| {
                let ((got, gap), (want, _)) = (got.split_at(rows), want.split_at(rows));
                got.iter().zip(want).all(near) && gap.iter().all(|value| value.is_nan())
            });
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn upload(cuda: &CudaDevice, bytes: &[u8]) -> Result<DeviceBuffer, KernelError> {
    let mut buffer = cuda.allocate(bytes.len())?;
    buffer.copy_in(0, bytes)?;
    Ok(buffer)
}
