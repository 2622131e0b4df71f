//! To and from candle's tensors on the CPU, for programs that mix both (feature `candle`).
//!
//! Both sides are contiguous and row-major, so a conversion is one copy; nothing is rounded.

use candle_core::{DType as CandleDType, Device as CandleDevice, Tensor as CandleTensor};
use glm_kernels::KernelError;
pub use glm_kernels::{CpuOptions, DType, Device, Tensor};
use half::{bf16, f16};

/// Why a tensor could not be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// candle has types that a forward pass has no use for.
    #[error(
        "a candle tensor of type {found:?} has no counterpart here; convert it to F32, F16 or BF16 first"
    )]
    DType {
        /// The type of the candle tensor.
        found: CandleDType,
    },
    /// candle's own error.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
    /// The tensor cannot be made on the device.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A copy of `tensor` as a candle tensor on the CPU, of the same shape and type.
///
/// # Errors
/// [`ConvertError::Candle`] if candle refuses the shape, [`ConvertError::DType`] for a type that it does not have.
///
/// ```
/// use glm_runtime::candle::{CpuOptions, Device, Tensor, from_candle, to_candle};
///
/// let device = Device::cpu(CpuOptions::default())?;
/// let ours = Tensor::from_f32(&device, &[1.0, 2.0, 3.0, 4.0], &[2, 2])?;
/// let doubled = (to_candle(&ours)? * 2.0)?;
/// assert_eq!(from_candle(&device, &doubled)?.to_f32_vec()?, [2.0, 4.0, 6.0, 8.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn to_candle(tensor: &Tensor) -> Result<CandleTensor, ConvertError> {
    let dtype = match tensor.dtype() {
        DType::F16 => CandleDType::F16,
        DType::BF16 => CandleDType::BF16,
        _ => CandleDType::F32,
    };
    let tensor = tensor.to_host()?;
    let bytes = tensor.as_bytes()?;
    Ok(CandleTensor::from_raw_buffer(
        bytes,
        dtype,
        tensor.shape(),
        &CandleDevice::Cpu,
    )?)
}

/// A copy of a candle tensor, wherever it lives and however it is strided, of the same shape and type.
///
/// # Errors
/// [`ConvertError::DType`] unless it is F32, F16 or BF16; [`ConvertError::Candle`] if it cannot be brought to the CPU;
/// [`ConvertError::Kernel`] if it has too many dimensions or there is no memory for it.
pub fn from_candle(device: &Device, tensor: &CandleTensor) -> Result<Tensor, ConvertError> {
    let flat = tensor.to_device(&CandleDevice::Cpu)?.flatten_all()?;
    let (dtype, bytes) = match tensor.dtype() {
        CandleDType::F32 => (
            DType::F32,
            native_bytes(flat.to_vec1::<f32>()?, f32::to_ne_bytes),
        ),
        CandleDType::F16 => (
            DType::F16,
            native_bytes(flat.to_vec1::<f16>()?, f16::to_ne_bytes),
        ),
        CandleDType::BF16 => (
            DType::BF16,
            native_bytes(flat.to_vec1::<bf16>()?, bf16::to_ne_bytes),
        ),
        found => return Err(ConvertError::DType { found }),
    };
    Ok(Tensor::from_bytes(device, dtype, &bytes, tensor.dims())?)
}

fn native_bytes<T, const N: usize>(values: Vec<T>, to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.into_iter().flat_map(to_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_the_round_trip_bit_for_bit() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        for (dtype, size) in [(DType::F32, 4), (DType::F16, 2), (DType::BF16, 2)] {
            let bytes: Vec<u8> = (0..6 * size).map(|i| (i * 37 % 120) as u8).collect();
            let ours = Tensor::from_bytes(&device, dtype, &bytes, &[2, 3]).unwrap();
            let candle = to_candle(&ours).unwrap();
            assert_eq!(candle.dims(), [2, 3], "{dtype}");
            let back = from_candle(&device, &candle).unwrap();
            assert_eq!(
                (back.dtype(), back.as_bytes().unwrap()),
                (dtype, bytes.as_slice())
            );
        }
    }

    #[test]
    fn a_transposed_candle_tensor_arrives_row_major() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let candle =
            CandleTensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &CandleDevice::Cpu).unwrap();
        let ours = from_candle(&device, &candle.t().unwrap()).unwrap();
        assert_eq!(ours.shape(), [3, 2]);
        assert_eq!(ours.to_f32_vec().unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn integers_are_refused() {
        let device = Device::cpu(CpuOptions::default()).unwrap();
        let ids = CandleTensor::new(&[1u32, 2], &CandleDevice::Cpu).unwrap();
        let error = from_candle(&device, &ids).unwrap_err();
        assert!(
            matches!(
                error,
                ConvertError::DType {
                    found: CandleDType::U32
                }
            ),
            "{error}"
        );
    }
}
