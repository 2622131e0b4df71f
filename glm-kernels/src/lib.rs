//! The numbers of the engine: devices, tensors and the operations of a GLM layer. It knows no file,
//! no configuration and no text.
//!
//! # The contract
//! - A kernel is a function of its arguments. There are no globals; what a machine can do is in the
//!   [`Device`], which every tensor carries.
//! - Operations are coarse, one per step of a layer, and each is one free function that checks its
//!   arguments, allocates its result from the device's cache and splits the work over the device's
//!   threads. Nothing that a caller passes makes it panic; it gets a [`KernelError`].
//! - Activations are f32, row-major and contiguous. Sums are f32 in a fixed order: a row of a
//!   result depends neither on the number of threads nor on the other rows of the batch.
//! - Every vectorised kernel has a scalar reference beside it and is compared with it, for every
//!   instruction set of the machine that runs the tests.
//!
//! # Letters in shapes
//! `T` tokens in this step, `S` sequences, `H`/`KVH` query/key-value heads, `D` head_dim, `C`
//! hidden_size, `F` intermediate_size, `V` vocab_size.
//!
//! # Where things are
//! One folder per kernel: `mod.rs` (contract, dispatch, tests), `reference.rs` (scalar), and the
//! vectorised form, written once over the vector types of `simd` or once per instruction set where
//! those differ in kind (`linear`).

#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(
        dead_code,
        reason = "the scalar path is the only one, and nothing calls what is written over vectors"
    )
)]

#[cfg(target_arch = "x86_64")]
mod amx;
mod bandwidth;
mod cuda;
mod device;
mod embed;
mod error;
mod gather_rows;
mod indices;
mod isa;
mod kv_layer;
mod linear;
mod memory;
#[cfg(target_arch = "aarch64")]
mod neon;
mod paged_attention;
mod parallel;
mod peaks;
mod profile;
pub mod quant;
mod rms_norm;
mod rope;
mod sample;
mod scatter_add;
mod simd;
mod swiglu;
mod tensor;
#[cfg(test)]
mod testing;

pub use bandwidth::bandwidth;
#[cfg(feature = "cuda-emulation")]
pub use cuda::emulation::{CudaFaults, EmulatedCuda};
pub use cuda::{
    CublasLtStats, CudaError, CudaOptions, CudaReport, CudaTrial, DeviceInfo, Graphs, MemoryInfo,
};
pub use device::{CpuOptions, Device};
pub use embed::embed;
pub use error::KernelError;
pub use gather_rows::gather_rows;
pub use indices::Indices;
pub use isa::Isa;
#[cfg(target_arch = "aarch64")]
pub use isa::Neon;
#[cfg(target_arch = "x86_64")]
pub use isa::{Amx, Avx2, Avx512};
pub use kv_layer::{KvDType, KvLayer};
pub use linear::{Weight, WeightBuilder, WeightFormat, gated_mlp, linear};
pub use memory::{AllocatorStats, Buffer};
pub use paged_attention::{AttnBatch, paged_attention};
pub use parallel::{SharedMut, ThreadPool};
pub use peaks::{Peaks, peaks};
pub use profile::{Cost, Op, Recorder, Span, Work};
pub use rms_norm::{Norm, add, add_normed, add_normed_rms_norm, add_rms_norm, rms_norm};
pub use rope::{AttnDims, Pairing, RopeAngles, rope_store_kv};
pub use sample::{
    LogitEdit, MAX_TOP_TOKENS, PendingSample, SampleLists, SampleRule, SampledToken, sample,
    sample_later,
};
pub use scatter_add::scatter_add;
pub use swiglu::swiglu;
pub use tensor::{DType, Tensor};
