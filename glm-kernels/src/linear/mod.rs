//! Linear layers.
use crate::{Device, KernelError, Tensor};

/// How weights are stored.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightFormat { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Iq4Nl, Iq4Xs }
impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{self:?}") }
}
/// A packed weight.
#[derive(Debug, Clone)]
pub struct Weight { device: Device }
#[allow(missing_docs, clippy::missing_errors_doc)]
impl Weight {
    pub fn device(&self) -> &Device { &self.device }
    pub fn out_features(&self) -> usize { unimplemented!() }
    pub fn in_features(&self) -> usize { unimplemented!() }
    pub fn byte_len(&self) -> usize { unimplemented!() }
    pub fn dequantize_row(&self, _row: usize, _out: &mut [f32]) -> Result<(), KernelError> { unimplemented!() }
}
/// Builds a weight.
#[derive(Debug)]
pub struct WeightBuilder { device: Device }
#[allow(missing_docs, clippy::missing_errors_doc)]
impl WeightBuilder {
    pub fn new(device: &Device, _in_features: usize) -> Self { Self { device: device.clone() } }
    pub fn push_rows(&mut self, _format: WeightFormat, _rows: usize, _bytes: &[u8]) -> Result<&mut Self, KernelError> { unimplemented!() }
    pub fn push_rows_quantized(&mut self, _format: WeightFormat, _rows: usize, _values: &[f32]) -> Result<&mut Self, KernelError> { unimplemented!() }
    pub fn finish(self) -> Result<Weight, KernelError> { Ok(Weight { device: self.device }) }
}
/// `x · Wᵀ + bias`.
///
/// # Errors
/// [`KernelError::Shape`]
pub fn linear(_x: &Tensor, _weight: &Weight, _bias: Option<&Tensor>) -> Result<Tensor, KernelError> { unimplemented!() }
/// `down(swiglu(gate_up(x)))`.
///
/// # Errors
/// [`KernelError::Shape`]
pub fn gated_mlp(_x: &Tensor, _gate_up: &Weight, _down: &Weight) -> Result<Tensor, KernelError> { unimplemented!() }
