//! The tensor of the forward pass: contiguous, row-major, with shared memory. No strides, no
//! autograd.

use std::sync::Arc;

use half::{bf16, f16};

use crate::cuda::{CudaDevice, DeviceBuffer, DevicePtr};
use crate::memory::{Buffer, Element};
use crate::{Device, KernelError};

/// The most dimensions that a tensor has.
const MAX_RANK: usize = 4;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision: activations.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    BF16,
}

impl DType {
    /// The size of one element in bytes.
    pub fn size_in_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

/// Up to [`MAX_RANK`] sizes, held inline: making a tensor of a step should not go to the system's
/// allocator for its shape.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    sizes: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    fn new(sizes: &[usize]) -> Result<Self, KernelError> {
        let mut inline = [0; MAX_RANK];
        inline
            .get_mut(..sizes.len())
            .ok_or(KernelError::Rank {
                found: sizes.len(),
                max: MAX_RANK,
            })?
            .copy_from_slice(sizes);
        Ok(Self {
            sizes: inline,
            rank: sizes.len(),
        })
    }

    fn as_slice(&self) -> &[usize] {
        &self.sizes[..self.rank]
    }
}

/// An n-dimensional array on a device: contiguous, last dimension fastest. A clone shares the
/// memory.
#[derive(Clone)]
pub struct Tensor {
    device: Device,
    dtype: DType,
    shape: Shape,
    memory: Arc<Memory>,
}

/// Where the elements lie.
enum Memory {
    Host(Buffer),
    Cuda(DeviceBuffer),
}

impl Memory {
    /// Memory of unspecified content.
    fn new(device: &Device, bytes: usize) -> Result<Self, KernelError> {
        match device.as_cuda() {
            Some(cuda) => Ok(Self::Cuda(cuda.allocate(bytes)?)),
            None => Ok(Self::Host(device.allocate(bytes)?)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Host(buffer) => buffer.len(),
            Self::Cuda(buffer) => buffer.len(),
        }
    }

    fn fill(&mut self, value: u8) -> Result<(), KernelError> {
        match self {
            Self::Host(buffer) => buffer.as_bytes_mut().fill(value),
            Self::Cuda(buffer) => buffer.fill(value)?,
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        match self {
            Self::Host(buffer) => buffer.as_bytes_mut().copy_from_slice(bytes),
            Self::Cuda(buffer) => buffer.copy_in(0, bytes)?,
        }
        Ok(())
    }
}

impl Tensor {
    /// A tensor whose elements have unspecified values, for a kernel that writes all of them. Debug
    /// builds fill it with NaN.
    ///
    /// # Errors
    /// [`KernelError::Rank`], [`KernelError::ShapeOverflow`], and [`KernelError::OutOfMemory`] or
    /// [`KernelError::DeviceMemory`].
    pub fn empty(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self, KernelError> {
        let mut memory = Memory::new(device, byte_len(dtype, shape)?)?;
        if cfg!(debug_assertions) {
            memory.fill(0xff)?; // all ones is a NaN in each of the types
        }
        Ok(Self {
            device: device.clone(),
            dtype,
            shape: Shape::new(shape)?,
            memory: Arc::new(memory),
        })
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self, KernelError> {
        let bytes = byte_len(dtype, shape)?;
        let memory = match device.as_cuda() {
            Some(cuda) => {
                let mut buffer = cuda.allocate(bytes)?;
                buffer.fill(0)?;
                Memory::Cuda(buffer)
            }
            None => Memory::Host(device.allocate_zeroed(bytes)?),
        };
        Ok(Self {
            device: device.clone(),
            dtype,
            shape: Shape::new(shape)?,
            memory: Arc::new(memory),
        })
    }

    /// A copy of `values`, row-major.
    ///
    /// # Errors
    /// [`KernelError::Length`] unless `values` has as many elements as `shape`; otherwise as
    /// [`Tensor::empty`].
    ///
    /// ```
    /// # use glm_kernels::{Device, Tensor};
    /// let device = Device::cpu(Default::default())?;
    /// let x = Tensor::from_f32(&device, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?;
    /// assert_eq!(x.shape(), [2, 3]);
    /// # Ok::<(), glm_kernels::KernelError>(())
    /// ```
    pub fn from_f32(device: &Device, values: &[f32], shape: &[usize]) -> Result<Self, KernelError> {
        let expected = element_count(shape)?;
        if values.len() != expected {
            return Err(KernelError::Length {
                op: "Tensor::from_f32",
                name: "values",
                expected,
                found: values.len(),
            });
        }
        let mut memory = Memory::new(device, byte_len(DType::F32, shape)?)?;
        memory.write(bytes_of(values))?;
        Ok(Self {
            device: device.clone(),
            dtype: DType::F32,
            shape: Shape::new(shape)?,
            memory: Arc::new(memory),
        })
    }

    /// A copy of `bytes`: the elements in native byte order, row-major.
    ///
    /// # Errors
    /// [`KernelError::Length`] unless there are as many bytes as `shape` and `dtype` say; otherwise
    /// as [`Tensor::empty`].
    pub fn from_bytes(
        device: &Device,
        dtype: DType,
        bytes: &[u8],
        shape: &[usize],
    ) -> Result<Self, KernelError> {
        let expected = byte_len(dtype, shape)?;
        if bytes.len() != expected {
            return Err(KernelError::Length {
                op: "Tensor::from_bytes",
                name: "bytes",
                expected,
                found: bytes.len(),
            });
        }
        let mut memory = Memory::new(device, expected)?;
        memory.write(bytes)?;
        Ok(Self {
            device: device.clone(),
            dtype,
            shape: Shape::new(shape)?,
            memory: Arc::new(memory),
        })
    }

    /// The f32 elements in `buffer`, of which there are as many as `shape` says.
    pub(crate) fn on_cuda(
        device: &Device,
        buffer: DeviceBuffer,
        shape: &[usize],
    ) -> Result<Self, KernelError> {
        Ok(Self {
            device: device.clone(),
            dtype: DType::F32,
            shape: Shape::new(shape)?,
            memory: Arc::new(Memory::Cuda(buffer)),
        })
    }

    /// Where the tensor lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.shape.as_slice()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.memory.len() / self.dtype.size_in_bytes()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.memory.len() == 0
    }

    /// The sizes of a matrix, `(rows, columns)`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] with `op` and `name` unless the tensor has two dimensions.
    pub fn dims2(
        &self,
        op: &'static str,
        name: &'static str,
    ) -> Result<(usize, usize), KernelError> {
        match *self.shape() {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(KernelError::Shape {
                op,
                name,
                expected: vec![self.shape().first().copied().unwrap_or(0), self.len()],
                found: self.shape().to_vec(),
            }),
        }
    }

    /// Checks the shape of an argument called `name` of the operation `op`.
    pub(crate) fn expect_shape(
        &self,
        op: &'static str,
        name: &'static str,
        expected: &[usize],
    ) -> Result<(), KernelError> {
        if self.shape() != expected {
            return Err(KernelError::Shape {
                op,
                name,
                expected: expected.to_vec(),
                found: self.shape().to_vec(),
            });
        }
        Ok(())
    }

    /// The elements.
    ///
    /// # Errors
    /// [`KernelError::DType`] unless they are f32, [`KernelError::OnDevice`] unless they are on the host.
    pub fn as_f32(&self) -> Result<&[f32], KernelError> {
        const OP: &str = "Tensor::as_f32";
        self.expect_dtype(OP, DType::F32)?;
        Ok(self.host_memory(OP)?.as_slice_of())
    }

    /// The elements, to change in place.
    ///
    /// # Errors
    /// [`KernelError::DType`] unless they are f32, [`KernelError::OnDevice`] unless they are on the host,
    /// [`KernelError::Shared`] while a clone of this tensor lives.
    pub fn as_f32_mut(&mut self) -> Result<&mut [f32], KernelError> {
        const OP: &str = "Tensor::as_f32_mut";
        self.expect_dtype(OP, DType::F32)?;
        self.host_memory(OP)?;
        match Arc::get_mut(&mut self.memory) {
            Some(Memory::Host(buffer)) => Ok(buffer.as_slice_of_mut()),
            _ => Err(KernelError::Shared { op: OP }),
        }
    }

    /// The elements in native byte order.
    ///
    /// # Errors
    /// [`KernelError::OnDevice`] unless they are on the host.
    pub fn as_bytes(&self) -> Result<&[u8], KernelError> {
        Ok(self.host_memory("Tensor::as_bytes")?.as_bytes())
    }

    /// The tensor in the host's memory: itself, sharing its memory, if it is there, otherwise a copy, for
    /// which this waits.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`], [`KernelError::DeviceLost`].
    pub fn to_host(&self) -> Result<Self, KernelError> {
        let Memory::Cuda(buffer) = &*self.memory else {
            return Ok(self.clone());
        };
        let device = self.device.host();
        let mut memory = device.allocate(buffer.len())?;
        buffer.copy_out(0, memory.as_bytes_mut())?;
        Ok(Self {
            device,
            memory: Arc::new(Memory::Host(memory)),
            ..*self
        })
    }

    /// As [`Tensor::to_host`], but without a second handle to the memory, so that the result may be
    /// changed in place if this one could.
    ///
    /// # Errors
    /// As [`Tensor::to_host`].
    pub fn into_host(self) -> Result<Self, KernelError> {
        match &*self.memory {
            Memory::Host(_) => Ok(self),
            Memory::Cuda(_) => self.to_host(),
        }
    }

    /// A copy of the elements as f32, whatever their type and wherever they are.
    ///
    /// # Errors
    /// As [`Tensor::to_host`].
    pub fn to_f32_vec(&self) -> Result<Vec<f32>, KernelError> {
        let tensor = self.to_host()?;
        let memory = tensor.host_memory("Tensor::to_f32_vec")?;
        Ok(match self.dtype {
            DType::F32 => memory.as_slice_of::<f32>().to_vec(),
            DType::F16 => widened(memory.as_slice_of::<f16>()),
            DType::BF16 => widened(memory.as_slice_of::<bf16>()),
        })
    }

    /// Where the elements lie on `cuda`, for the argument `name` of the operation `op` to be read.
    ///
    /// # Errors
    /// [`KernelError::OtherDevice`] if they are elsewhere.
    pub(crate) fn cuda_ptr(
        &self,
        op: &'static str,
        name: &'static str,
        cuda: &CudaDevice,
    ) -> Result<DevicePtr, KernelError> {
        match &*self.memory {
            Memory::Cuda(buffer) if cuda.owns(buffer) => Ok(buffer.ptr()),
            _ => Err(KernelError::OtherDevice {
                op,
                name,
                expected: cuda.name(),
                found: self.device.name(),
            }),
        }
    }

    /// As [`Tensor::cuda_ptr`], for elements to be written.
    ///
    /// # Errors
    /// [`KernelError::OtherDevice`] if they are elsewhere, [`KernelError::Shared`] while a clone of this
    /// tensor lives.
    pub(crate) fn cuda_ptr_mut(
        &mut self,
        op: &'static str,
        name: &'static str,
        cuda: &CudaDevice,
    ) -> Result<DevicePtr, KernelError> {
        if Arc::get_mut(&mut self.memory).is_none() {
            return Err(KernelError::Shared { op });
        }
        self.cuda_ptr(op, name, cuda)
    }

    /// The same elements under another shape; the memory is shared.
    ///
    /// # Errors
    /// [`KernelError::Shape`] unless both shapes have as many elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self, KernelError> {
        if element_count(shape)? != self.len() {
            return Err(KernelError::Shape {
                op: "Tensor::reshape",
                name: "shape",
                expected: self.shape().to_vec(),
                found: shape.to_vec(),
            });
        }
        Ok(Self {
            shape: Shape::new(shape)?,
            ..self.clone()
        })
    }

    pub(crate) fn expect_dtype(
        &self,
        op: &'static str,
        expected: DType,
    ) -> Result<(), KernelError> {
        if self.dtype != expected {
            return Err(KernelError::DType {
                op,
                expected,
                found: self.dtype,
            });
        }
        Ok(())
    }

    fn host_memory(&self, op: &'static str) -> Result<&Buffer, KernelError> {
        match &*self.memory {
            Memory::Host(buffer) => Ok(buffer),
            Memory::Cuda(_) => Err(KernelError::OnDevice {
                op,
                device: self.device.name(),
            }),
        }
    }
}

fn widened<T: Copy + Into<f32>>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| (*value).into()).collect()
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Tensor({} {:?} on {})",
            self.dtype,
            self.shape(),
            self.device.name()
        )
    }
}

/// The bytes of numbers, as they lie in memory.
pub(crate) fn bytes_of<T: Element>(values: &[T]) -> &[u8] {
    // SAFETY: an `Element` has no padding, and bytes have no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The number of elements of a shape.
pub(crate) fn element_count(shape: &[usize]) -> Result<usize, KernelError> {
    let count = shape
        .iter()
        .try_fold(1usize, |count, size| count.checked_mul(*size));
    count.ok_or_else(|| KernelError::ShapeOverflow(shape.to_vec()))
}

fn byte_len(dtype: DType, shape: &[usize]) -> Result<usize, KernelError> {
    let bytes = element_count(shape)?.checked_mul(dtype.size_in_bytes());
    bytes.ok_or_else(|| KernelError::ShapeOverflow(shape.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        Device::cpu(crate::CpuOptions {
            threads: Some(1),
            isa: Some(crate::Isa::Scalar),
        })
        .unwrap()
    }

    #[test]
    fn a_tensor_holds_what_was_put_in() {
        let x = Tensor::from_f32(&device(), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]).unwrap();
        assert_eq!(x.dims2("test", "x").unwrap(), (2, 3));
        assert_eq!(x.as_f32().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let row = x.reshape(&[6]).unwrap();
        assert_eq!(row.shape(), [6]);
        assert_eq!(row.to_f32_vec().unwrap(), x.to_f32_vec().unwrap());
    }

    #[test]
    fn half_types_are_widened_exactly() {
        let halves: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|x| f16::from_f32(*x).to_ne_bytes())
            .collect();
        let x = Tensor::from_bytes(&device(), DType::F16, &halves, &[2]).unwrap();
        assert_eq!(x.to_f32_vec().unwrap(), [1.5, -2.0]);
        assert_eq!(
            x.as_f32().unwrap_err(),
            KernelError::DType {
                op: "Tensor::as_f32",
                expected: DType::F32,
                found: DType::F16
            }
        );
        let halves: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|x| bf16::from_f32(*x).to_ne_bytes())
            .collect();
        assert_eq!(
            Tensor::from_bytes(&device(), DType::BF16, &halves, &[2])
                .unwrap()
                .to_f32_vec()
                .unwrap(),
            [1.5, -2.0]
        );
    }

    #[test]
    fn shared_memory_is_not_changed_in_place() {
        let mut x = Tensor::zeros(&device(), DType::F32, &[3]).unwrap();
        let y = x.clone();
        assert_eq!(
            x.as_f32_mut().unwrap_err(),
            KernelError::Shared {
                op: "Tensor::as_f32_mut"
            }
        );
        drop(y);
        x.as_f32_mut().unwrap()[0] = 1.0;
        assert_eq!(x.to_f32_vec().unwrap(), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_typed_errors() {
        let device = device();
        assert!(matches!(
            Tensor::zeros(&device, DType::F32, &[usize::MAX, 2]),
            Err(KernelError::ShapeOverflow(_))
        ));
        assert!(matches!(
            Tensor::zeros(&device, DType::F32, &[usize::MAX]),
            Err(KernelError::ShapeOverflow(_))
        ));
        assert!(matches!(
            Tensor::zeros(&device, DType::F32, &[1; 5]),
            Err(KernelError::Rank { found: 5, .. })
        ));
        assert!(matches!(
            Tensor::from_f32(&device, &[0.0], &[2]),
            Err(KernelError::Length {
                expected: 2,
                found: 1,
                ..
            })
        ));
        assert!(matches!(
            Tensor::from_bytes(&device, DType::F16, &[0; 3], &[2]),
            Err(KernelError::Length {
                expected: 4,
                found: 3,
                ..
            })
        ));
        let x = Tensor::zeros(&device, DType::F32, &[2, 3]).unwrap();
        assert!(matches!(x.reshape(&[7]), Err(KernelError::Shape { .. })));
        assert!(matches!(
            x.reshape(&[6]).unwrap().dims2("test", "x"),
            Err(KernelError::Shape { .. })
        ));
    }

    #[test]
    fn an_empty_tensor_is_fine() {
        let x = Tensor::zeros(&device(), DType::F32, &[0, 7]).unwrap();
        assert!(x.is_empty());
        assert_eq!(x.as_f32().unwrap(), [0.0f32; 0]);
    }
}
