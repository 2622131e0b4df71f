//! The errors of this crate: every one names what was wrong, what was expected and, where there is
//! one, the way out.

use crate::{CudaError, DType, WeightFormat};

/// Why a kernel refused its arguments, or a device could not be set up.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// An argument has another shape than the operation needs.
    #[error("{op}: `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The operation that was called.
        op: &'static str,
        /// The argument that does not fit.
        name: &'static str,
        /// The shape that would fit; for a free dimension, the size that the other arguments imply.
        expected: Vec<usize>,
        /// The shape that was passed.
        found: Vec<usize>,
    },
    /// An argument has another number of elements (or bytes, where `name` says so) than the
    /// operation needs.
    #[error("{op}: `{name}` has length {found}, expected {expected}")]
    Length {
        /// The operation that was called.
        op: &'static str,
        /// The argument that does not fit.
        name: &'static str,
        /// The length that would fit.
        expected: usize,
        /// The length that was passed.
        found: usize,
    },
    /// A dimension breaks a rule that cannot be said as one expected shape.
    #[error("{op}: `{name}` is {found}, but must be {rule}")]
    Value {
        /// The operation that was called.
        op: &'static str,
        /// The argument that breaks the rule.
        name: &'static str,
        /// The value that was passed.
        found: usize,
        /// What it must be, as a phrase that follows "must be".
        rule: &'static str,
    },
    /// An id (token, row, block or slot) lies outside what it indexes.
    #[error("{op}: {name} {index} is out of range (there are {len})")]
    Index {
        /// The operation that was called.
        op: &'static str,
        /// What the index counts.
        name: &'static str,
        /// The index that was passed.
        index: usize,
        /// The number of things it can index.
        len: usize,
    },
    /// The product of a shape's dimensions, times the element size, does not fit in memory.
    #[error("a tensor of shape {0:?} is larger than any memory")]
    ShapeOverflow(Vec<usize>),
    /// A tensor has more dimensions than [`Tensor`](crate::Tensor) holds.
    #[error("a tensor has at most {max} dimensions, found {found}")]
    Rank {
        /// The number of dimensions asked for.
        found: usize,
        /// The most that a tensor can have.
        max: usize,
    },
    /// A tensor has another element type than the operation reads.
    #[error("{op}: expected a tensor of {expected}, found {found}")]
    DType {
        /// The operation that was called.
        op: &'static str,
        /// The element type that it reads.
        expected: DType,
        /// The element type that was passed.
        found: DType,
    },
    /// A tensor is to be changed in place while another handle shares its memory.
    #[error(
        "{op}: the tensor's memory is shared with another tensor, so it cannot be changed in place"
    )]
    Shared {
        /// The operation that was called.
        op: &'static str,
    },
    /// The system has no memory left for a buffer.
    #[error("cannot allocate {bytes} bytes")]
    OutOfMemory {
        /// The size of the buffer that was asked for.
        bytes: usize,
    },
    /// A graphics processor has no memory left for a buffer.
    #[error("{device} has no room for {bytes} bytes: {available} are left")]
    DeviceMemory {
        /// The device.
        device: String,
        /// The size of the buffer that was asked for.
        bytes: usize,
        /// The bytes that can still be allocated, cached ones included.
        available: u64,
    },
    /// A graphics processor failed for good: nothing can be computed on it until the program is started
    /// again.
    #[error("{device} is lost until the program is started again: {reason}")]
    DeviceLost {
        /// The device.
        device: String,
        /// The first failure.
        reason: String,
    },
    /// CUDA could not be used, or a call of its driver failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The host is to look at values that lie on a graphics processor.
    #[error("{op}: the values are on {device}: copy them with Tensor::to_host first")]
    OnDevice {
        /// The operation that was called.
        op: &'static str,
        /// Where they are.
        device: String,
    },
    /// Arguments of an operation lie on different devices.
    #[error("{op}: `{name}` is on {found}, the operation runs on {expected}")]
    OtherDevice {
        /// The operation that was called.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// The device of the operation.
        expected: String,
        /// The device of the argument.
        found: String,
    },
    /// What works on the CPU only.
    #[error("{op}: there is no {what} on CUDA: use {instead}")]
    NotOnCuda {
        /// The operation that was called.
        op: &'static str,
        /// What was asked for.
        what: String,
        /// What does work there.
        instead: &'static str,
    },
    /// A format that only graphics processors have.
    #[error("{0} weights are for graphics processors only: use q8_0 or q4_k on the CPU")]
    OnlyOnCuda(WeightFormat),
    /// The name of an instruction set (option or `GLM_ISA`) is not one of ours.
    #[error("unknown instruction set `{0}`: use scalar, avx2, avx512, amx or neon")]
    UnknownIsa(String),
    /// The name of a KV cache type is not one of ours.
    #[error("unknown KV cache type `{0}`: use f32, f16, bf16, q8_0 or fp8")]
    UnknownKvDType(String),
    /// The instruction set that was asked for is not there.
    #[error("this CPU has no {requested} (available: {available})")]
    IsaUnavailable {
        /// The instruction set asked for.
        requested: &'static str,
        /// The names of those that this CPU has.
        available: String,
    },
    /// A thread count is zero or absurd.
    #[error("cannot use {0} threads: use 1 to {max}", max = crate::parallel::MAX_THREADS)]
    Threads(usize),
    /// A worker thread could not be started.
    #[error("cannot start worker thread {index}: {reason}")]
    Spawn {
        /// Which worker.
        index: usize,
        /// What the system said.
        reason: String,
    },
    /// The name of a weight format is not known.
    #[error("unknown weight format `{0}`")]
    UnknownFormat(String),
    /// A row does not consist of whole quantisation blocks.
    #[error("a row of {columns} values is not a whole number of {format} blocks of {block_len}")]
    PartialBlock {
        /// The weight format.
        format: WeightFormat,
        /// The values in a row.
        columns: usize,
        /// The values in a block of the format.
        block_len: usize,
    },
    /// The format can be read but this crate has no quantiser for it.
    #[error("cannot quantise to {0}: it can only be read")]
    CannotQuantize(WeightFormat),
}
