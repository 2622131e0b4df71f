//! Activations on the device, in the forms that kernels want, each made once for all rows of a weight.

use super::pack::CHUNK;
use super::{padded, size};
use crate::KernelError;
use crate::cuda::{CudaDevice, DeviceBuffer, DevicePtr, Kernel, KernelArg, LaunchConfig};

/// `[T, columns]` activations, and the forms of them that were asked for.
pub(super) struct Activations<'a> {
    pub cuda: &'a CudaDevice,
    pub x: DevicePtr,
    pub tokens: u32,
    pub columns: u32,
    /// Chunks of the padded columns.
    pub chunks: u32,
    /// Codes and scales, as in `linear_quantize`.
    codes: Option<(DeviceBuffer, DeviceBuffer)>,
    /// Halves and scales, as in `linear_round_f16`.
    f16: Option<(DeviceBuffer, DeviceBuffer)>,
    bf16: Option<DeviceBuffer>,
    padded: Option<DeviceBuffer>,
}

impl<'a> Activations<'a> {
    pub fn new(
        cuda: &'a CudaDevice,
        x: DevicePtr,
        tokens: usize,
        columns: usize,
    ) -> Result<Self, KernelError> {
        Ok(Self {
            cuda,
            x,
            tokens: size(tokens)?,
            columns: size(columns)?,
            chunks: size(padded(columns)? / CHUNK)?,
            codes: None,
            f16: None,
            bf16: None,
            padded: None,
        })
    }

    /// The activations in rows of whole eights, and their length.
    pub fn eights(&mut self) -> Result<(DevicePtr, u32), KernelError> {
        if self.columns.is_multiple_of(8) {
            return Ok((self.x, self.columns));
        }
        let padded = match self.padded.take() {
            Some(padded) => padded,
            None => {
                let kernel = self.kernel("linear_float", "linear_pad")?;
                // SAFETY: the kernel writes f32 for 256 columns a block.
                unsafe { self.converted(kernel, size_of::<f32>(), 256) }?
            }
        };
        let start = self.padded.insert(padded).ptr();
        Ok((start, self.padded_columns()))
    }

    /// Codes and scales.
    pub fn codes(&mut self) -> Result<(DevicePtr, DevicePtr), KernelError> {
        if self.codes.is_none() {
            let units = self.tokens as usize * self.chunks as usize * 2;
            let codes = self.scratch(1)?;
            let scales = self.cuda.allocate(units * size_of::<f32>())?;
            let kernel = self.kernel("linear_gemv", "linear_quantize")?;
            let config = LaunchConfig::new(
                [self.tokens, (2 * self.chunks).div_ceil(64), 1],
                [256, 1, 1],
            );
            let args = [
                codes.ptr().into(),
                scales.ptr().into(),
                self.x.into(),
                self.columns.into(),
                self.chunks.into(),
            ];
            // SAFETY: the buffers have room for the codes and the scales of each token's units.
            unsafe { self.launch(kernel, config, &args) }?;
            self.codes = Some((codes, scales));
        }
        Ok(pointers(self.codes.as_ref()))
    }

    /// Halves and scales.
    pub fn f16(&mut self) -> Result<(DevicePtr, DevicePtr), KernelError> {
        if self.f16.is_none() {
            let halves = self.scratch(2)?;
            let scales = self
                .cuda
                .allocate(self.tokens as usize * size_of::<f32>())?;
            let kernel = self.kernel("linear_gemm", "linear_round_f16")?;
            let args = [
                halves.ptr().into(),
                scales.ptr().into(),
                self.x.into(),
                self.columns.into(),
                self.padded_columns().into(),
            ];
            // SAFETY: the buffers have room for `padded` halves and a scale of each token.
            unsafe { self.launch(kernel, LaunchConfig::linear(self.tokens, 256), &args) }?;
            self.f16 = Some((halves, scales));
        }
        Ok(pointers(self.f16.as_ref()))
    }

    pub fn bf16(&mut self) -> Result<DevicePtr, KernelError> {
        let rounded = match self.bf16.take() {
            Some(rounded) => rounded,
            None => {
                let kernel = self.kernel("linear_gemm", "linear_round_bf16")?;
                // SAFETY: the kernel writes 16 bits for each of 2048 columns a block.
                unsafe { self.converted(kernel, 2, 2048) }?
            }
        };
        Ok(self.bf16.insert(rounded).ptr())
    }

    /// A padded row of each token, element by element what `kernel` makes of the activations.
    ///
    /// # Safety
    /// The kernel takes the result, the activations and their columns, padded and not, and writes `bytes_per_value` bytes for each of the
    /// `columns_per_block` columns of a block of 256 threads, as far as there are padded ones.
    unsafe fn converted(
        &self,
        kernel: Kernel,
        bytes_per_value: usize,
        columns_per_block: u32,
    ) -> Result<DeviceBuffer, KernelError> {
        let (buffer, padded) = (self.scratch(bytes_per_value)?, self.padded_columns());
        let grid = [self.tokens, padded.div_ceil(columns_per_block), 1];
        let args = [
            buffer.ptr().into(),
            self.x.into(),
            self.columns.into(),
            padded.into(),
        ];
        // SAFETY: the buffer has room for `padded` values of each token; the rest is the caller's promise.
        unsafe { self.launch(kernel, LaunchConfig::new(grid, [256, 1, 1]), &args) }?;
        Ok(buffer)
    }

    pub fn padded_columns(&self) -> u32 {
        self.chunks * CHUNK as u32
    }

    /// Memory for a padded row of each token.
    fn scratch(&self, bytes_per_value: usize) -> Result<DeviceBuffer, KernelError> {
        let values = self.tokens as usize * self.padded_columns() as usize;
        self.cuda.allocate(values * bytes_per_value)
    }

    pub fn kernel(&self, module: &'static str, name: &'static str) -> Result<Kernel, KernelError> {
        self.cuda.kernel(module, name)
    }

    /// Queues a kernel that waits for the one before by itself.
    ///
    /// # Safety
    /// As [`CudaDevice::launch`].
    pub unsafe fn launch(
        &self,
        kernel: Kernel,
        config: LaunchConfig,
        args: &[KernelArg],
    ) -> Result<(), KernelError> {
        // SAFETY: the caller's promise.
        unsafe { self.cuda.launch(kernel, &config.overlapping(), args) }
    }
}

fn pointers(buffers: Option<&(DeviceBuffer, DeviceBuffer)>) -> (DevicePtr, DevicePtr) {
    buffers.map_or((DevicePtr(0), DevicePtr(0)), |(first, second)| {
        (first.ptr(), second.ptr())
    })
}
