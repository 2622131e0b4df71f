//! The launches. The angles of a step are computed once, a cell a thread. Rotating and storing is one launch
//! over tokens; bytes: each row read once, queries written as f32, keys and values in their stored type.

use super::{AttnDims, OP, Pairing, RopeAngles};
use crate::cuda::{CudaDevice, LaunchConfig, size_arg};
use crate::{DType, Indices, KernelError, KvDType, KvLayer, Tensor};

const MODULE: &str = "rope";
const THREADS: usize = 256;

/// Cosines, then sines: `[2, T, pairs]`.
pub(super) fn angles(
    cuda: &CudaDevice,
    inv_freq: &Tensor,
    positions: &Indices,
    scale: f32,
) -> Result<Tensor, KernelError> {
    const OP: &str = "RopeAngles::new";
    const THREADS: usize = 128;
    let (tokens, pairs) = (positions.len(), inv_freq.len());
    let mut table = Tensor::empty(inv_freq.device(), DType::F32, &[2, tokens, pairs])?;
    let blocks = size_arg(OP, "angles", (tokens * pairs).div_ceil(THREADS))?;
    let args = [
        positions.cuda_ptr(cuda)?.into(),
        inv_freq.cuda_ptr(OP, "inv_freq", cuda)?.into(),
        scale.into(),
        table.cuda_ptr_mut(OP, "table", cuda)?.into(),
        size_arg(OP, "tokens", tokens)?.into(),
        size_arg(OP, "pairs", pairs)?.into(),
    ];
    let kernel = cuda.kernel(MODULE, "rope_angles")?;
    let config = LaunchConfig::linear(blocks, THREADS as u32).overlapping();
    // SAFETY: there is a position for each token and a frequency for each pair; the table is new and
    // has a cell for each of both.
    unsafe { cuda.launch(kernel, &config, &args)? };
    Ok(table)
}

pub(super) fn rope_store_kv(
    cuda: &CudaDevice,
    qkv: &Tensor,
    dims: AttnDims,
    angles: &RopeAngles,
    slot_mapping: &Indices,
    kv: &mut KvLayer,
) -> Result<Tensor, KernelError> {
    let name = match kv.dtype() {
        KvDType::F32 => "rope_store_kv_f32",
        KvDType::F16 => "rope_store_kv_f16",
        KvDType::BF16 => "rope_store_kv_bf16",
        KvDType::Fp8 => "rope_store_kv_e4m3",
        KvDType::Q8_0 => return Err(kv.not_on_cuda(OP)),
    };
    let (tokens, block_size) = (slot_mapping.len(), kv.block_size());
    let store = match kv.cuda_mut() {
        Some(store) => store,
        None => return Err(kv.not_on_cuda(OP)),
    };
    let mut q = Tensor::empty(qkv.device(), DType::F32, &[tokens, dims.q_len()])?;
    let args = [
        qkv.cuda_ptr(OP, "qkv", cuda)?.into(),
        angles.table.cuda_ptr(OP, "angles", cuda)?.into(),
        slot_mapping.cuda_ptr(cuda)?.into(),
        q.cuda_ptr_mut(OP, "q", cuda)?.into(),
        store.keys.ptr().into(),
        store.values.ptr().into(),
        size_arg(OP, "heads", dims.num_heads)?.into(),
        size_arg(OP, "heads", dims.num_kv_heads)?.into(),
        size_arg(OP, "head_dim", dims.head_dim)?.into(),
        size_arg(OP, "pairs", angles.pairs)?.into(),
        u32::from(angles.pairing == Pairing::HalfSplit).into(),
        size_arg(OP, "block_size", block_size)?.into(),
    ];
    let kernel = cuda.kernel(MODULE, name)?;
    let config = store_config(cuda, tokens, dims)?;
    // SAFETY: shapes, slots and the number of angles were checked, `kv` is borrowed mutably, and `q` is
    // new and has a row for each token.
    unsafe { cuda.launch(kernel, &config, &args)? };
    Ok(q)
}

/// One block a token if that fills the device, else one thread a pair.
fn store_config(
    cuda: &CudaDevice,
    tokens: usize,
    dims: AttnDims,
) -> Result<LaunchConfig, KernelError> {
    let pairs = (dims.num_heads + 2 * dims.num_kv_heads) * dims.head_dim.div_ceil(2);
    let pieces = if tokens >= 4 * cuda.info().multiprocessors {
        1
    } else {
        pairs.div_ceil(THREADS)
    };
    let grid = [
        size_arg(OP, "tokens", tokens)?,
        size_arg(OP, "pairs", pieces)?,
        1,
    ];
    Ok(LaunchConfig::new(grid, [THREADS as u32, 1, 1]).overlapping())
}
