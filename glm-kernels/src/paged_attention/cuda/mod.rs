//! Attention on a graphics processor: which kernel takes which sequences, and how the work is cut.
//!
//! - `decode.cu` takes sequences of few queries: a context is shared by as many blocks as the device has
//!   room for, and a second launch merges their results.
//! - `prefill.cu` takes the others, 128 rows (query heads of a KV head) a block.
//! - `any.cu` takes everything where the two cannot: head sizes other than 64 and 128, blocks whose size
//!   is no power of two or below 16, keys and values in f32. It is not fast.
//!
//! A step of both kinds of sequences makes both launches; each leaves the other's sequences alone. The
//! sums of a context depend on how it is cut, hence on the other sequences of the step, in the last
//! bits; on the CPU they do not.
//!
//! # What it should reach
//! Nothing of this was measured on a device yet. Registers are those of sm_90a (`cuda/pack/manifest.json`
//! has all); bytes and operations are per layer of GLM-4-9B (H = 32, KVH = 2, D = 128, bf16), times are
//! for 4.3 TB/s and, for `mma.sync`, 600 TFLOP/s.
//!
//! | | bytes | operations | geometry | to expect |
//! |---|---|---|---|---|
//! | decode, 1 sequence of 2048 | 2 MiB: 0.5 µs | 0.07 G | 2 x 16 blocks of 128 threads, 167 registers | latency: 4 to 5 µs with the merge |
//! | decode, 64 sequences of 2048 | 128 MiB: 31 µs | 4.3 G: 7 µs | 128 x 7 blocks, 3 on a multiprocessor | 80 % of the bandwidth |
//! | prefill, 8192 | 8 MiB, from L2 4 GiB: 0.8 ms | 550 G: 0.92 ms | 2 x 1024 blocks of 128 threads, 255 registers | 60 %: 1.5 ms |

#[cfg(test)]
mod tests;

use super::OP;
use super::batch::{AttnBatch, Sequence};
use crate::cuda::{CudaDevice, KernelArg, LaunchConfig, size_arg};
use crate::{AttnDims, DType, KernelError, KvDType, KvLayer, Tensor};

/// Rows of a block of `decode.cu`.
const DECODE_ROWS: usize = 16;

/// Positions of a context that are worth a block of their own: with fewer, merging costs more than is
/// gained.
const MIN_PIECE: usize = 128;

/// Blocks of `decode.cu` that a multiprocessor runs at once.
const DECODE_BLOCKS: usize = 3;

/// Rounds of blocks to aim at, so that contexts of different lengths level out.
const ROUNDS: usize = 2;

/// Rows of a block of `prefill.cu`.
const PREFILL_ROWS: usize = 128;

/// Threads of a block of any of the kernels.
const THREADS: u32 = 128;

/// The largest head of `any.cu`.
const MAX_HEAD_DIM: usize = 256;

/// The names of the kernels of a stored type and head size.
struct Kernels {
    decode: &'static str,
    merge: &'static str,
    prefill: &'static str,
}

impl Kernels {
    /// Those that use tensor cores, if there are any for the layer.
    fn new(kv: &KvLayer) -> Option<Self> {
        let block_size = kv.block_size();
        if !block_size.is_power_of_two() || block_size < 16 {
            return None;
        }
        let names = |decode, prefill, merge| Kernels {
            decode,
            merge,
            prefill,
        };
        match (kv.dtype(), kv.head_dim()) {
            (KvDType::BF16, 64) => Some(names(
                "paged_attention_decode_bf16_64",
                "paged_attention_prefill_bf16_64",
                "paged_attention_decode_merge_64",
            )),
            (KvDType::BF16, 128) => Some(names(
                "paged_attention_decode_bf16_128",
                "paged_attention_prefill_bf16_128",
                "paged_attention_decode_merge_128",
            )),
            (KvDType::F16, 64) => Some(names(
                "paged_attention_decode_f16_64",
                "paged_attention_prefill_f16_64",
                "paged_attention_decode_merge_64",
            )),
            (KvDType::F16, 128) => Some(names(
                "paged_attention_decode_f16_128",
                "paged_attention_prefill_f16_128",
                "paged_attention_decode_merge_128",
            )),
            (KvDType::Fp8, 64) => Some(names(
                "paged_attention_decode_e4m3_64",
                "paged_attention_prefill_e4m3_64",
                "paged_attention_decode_merge_64",
            )),
            (KvDType::Fp8, 128) => Some(names(
                "paged_attention_decode_e4m3_128",
                "paged_attention_prefill_e4m3_128",
                "paged_attention_decode_merge_128",
            )),
            _ => None,
        }
    }
}

/// How the work of a step is cut.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Sequences of at most so many queries are `decode.cu`'s.
    max_queries: usize,
    /// Tiles of rows of a sequence and KV head in `decode.cu`; 0 if it has no sequence.
    decode_tiles: usize,
    /// Pieces that each context is cut in there.
    pieces: usize,
    /// Tiles of a KV head in `prefill.cu`, of all sequences.
    prefill_tiles: usize,
}

impl Plan {
    fn new(sequences: &[Sequence<'_>], dims: AttnDims, multiprocessors: usize) -> Self {
        let group = dims.group();
        // A tile of `prefill.cu` has a whole context to itself. Where there are few, `decode.cu` is
        // sooner done although it reads a context once for each tile.
        let few = sequences.len() * dims.num_kv_heads < multiprocessors;
        let rows = if few { PREFILL_ROWS } else { DECODE_ROWS };
        let max_queries = (rows / group).max(1);
        let is_short = |sequence: &&Sequence<'_>| sequence.queries <= max_queries;
        let short = || sequences.iter().filter(is_short);
        let most = short().map(|sequence| sequence.queries).max().unwrap_or(0);
        let decode_tiles = (most * group).div_ceil(DECODE_ROWS);
        let longest = short().map(|sequence| sequence.context_len).max();
        // Up to the next power of two, so that the next step is cut alike and can be repeated (`Graphs`): pieces that a
        // context does not need end at once.
        let longest = longest.unwrap_or(0).next_power_of_two();
        let blocks = sequences.len() * dims.num_kv_heads * decode_tiles;
        let room = ROUNDS * DECODE_BLOCKS * multiprocessors;
        let pieces = room.div_ceil(blocks.max(1));
        let prefill_tiles = sequences
            .iter()
            .filter(|sequence| sequence.queries > max_queries)
            .map(|sequence| (sequence.queries * group).div_ceil(PREFILL_ROWS))
            .sum();
        Self {
            max_queries,
            decode_tiles,
            pieces: pieces.clamp(1, longest.div_ceil(MIN_PIECE)),
            prefill_tiles,
        }
    }
}

/// A step whose arguments were checked, on a device.
struct Step<'a> {
    cuda: &'a CudaDevice,
    batch: &'a AttnBatch,
    sequences: &'a [Sequence<'a>],
    dims: AttnDims,
    block_size: usize,
    dtype: KvDType,
    /// Queries, keys, values, and the three lists of the step.
    inputs: [KernelArg; 6],
    out: KernelArg,
    /// What scores are multiplied with, in units of log2(e).
    scale: f32,
}

pub(super) fn paged_attention(
    cuda: &CudaDevice,
    q: &Tensor,
    kv: &KvLayer,
    batch: &AttnBatch,
    sequences: &[Sequence<'_>],
    dims: AttnDims,
    scale: f32,
) -> Result<Tensor, KernelError> {
    let Some(store) = kv.cuda() else {
        return Err(kv.not_on_cuda(OP));
    };
    let mut out = Tensor::empty(q.device(), DType::F32, q.shape())?;
    let step = Step {
        cuda,
        batch,
        sequences,
        dims,
        block_size: kv.block_size(),
        dtype: kv.dtype(),
        inputs: [
            q.cuda_ptr(OP, "q", cuda)?.into(),
            store.keys.ptr().into(),
            store.values.ptr().into(),
            batch.query_start.cuda_ptr(cuda)?.into(),
            batch.context_lens.cuda_ptr(cuda)?.into(),
            batch.block_tables.cuda_ptr(cuda)?.into(),
        ],
        out: out.cuda_ptr_mut(OP, "out", cuda)?.into(),
        scale: scale * std::f32::consts::LOG2_E,
    };
    match Kernels::new(kv) {
        Some(kernels) => {
            let plan = Plan::new(sequences, dims, cuda.info().multiprocessors);
            step.decode(&kernels, &plan)?;
            step.prefill(&kernels, &plan)?;
        }
        None => step.any(kv)?,
    }
    Ok(out)
}

impl Step<'_> {
    /// Sequences of few queries, if there are any.
    fn decode(&self, kernels: &Kernels, plan: &Plan) -> Result<(), KernelError> {
        const MODULE: &str = "paged_attention_decode";
        let (tiles, pieces) = (self.dims.num_kv_heads * plan.decode_tiles, plan.pieces);
        let grid = [size(pieces)?, size(tiles)?, size(self.sequences.len())?];
        if tiles == 0 || self.sequences.is_empty() {
            return Ok(());
        }
        // Per row its sums, their maximum and the sum of the weights.
        let row = size_of::<f32>() * (self.dims.head_dim + 2);
        let blocks = pieces * tiles * self.sequences.len();
        let partials = self.cuda.allocate(match pieces {
            1 => 0,
            _ => blocks * DECODE_ROWS * row,
        })?;
        let partials: KernelArg = partials.ptr().into();
        let [heads, kv_heads] = self.heads()?;
        let (max_queries, tiles) = (size(plan.max_queries)?, size(plan.decode_tiles)?);
        let args = [
            &self.inputs[..],
            &[
                self.out,
                partials,
                size(self.batch.max_blocks_per_seq)?.into(),
                heads,
                kv_heads,
                self.block_size.trailing_zeros().into(),
                max_queries.into(),
                tiles.into(),
                self.scale.into(),
            ],
        ]
        .concat();
        let config = LaunchConfig::new(grid, [THREADS, 1, 1]).overlapping();
        let kernel = self.cuda.kernel(MODULE, kernels.decode)?;
        // SAFETY: the lists were checked to fit each other, the queries and the layer; `out` is new, and
        // there is room for the result of each block.
        unsafe { self.cuda.launch(kernel, &config, &args)? };
        if pieces == 1 {
            return Ok(());
        }
        // What the kernels make of e4m3 is 2^-8 of it.
        let unit: f32 = if self.dtype == KvDType::Fp8 {
            256.0
        } else {
            1.0
        };
        let args = [
            self.inputs[3],
            self.inputs[4],
            self.out,
            partials,
            heads,
            kv_heads,
            max_queries.into(),
            tiles.into(),
            size(pieces)?.into(),
            unit.into(),
        ];
        // A warp per row.
        let grid = [grid[1] * (DECODE_ROWS as u32 * 32 / THREADS), grid[2], 1];
        let config = LaunchConfig::new(grid, [THREADS, 1, 1]).overlapping();
        let kernel = self.cuda.kernel(MODULE, kernels.merge)?;
        // SAFETY: as above.
        unsafe { self.cuda.launch(kernel, &config, &args) }
    }

    /// Sequences of many queries, if there are any.
    fn prefill(&self, kernels: &Kernels, plan: &Plan) -> Result<(), KernelError> {
        let head_dim = self.dims.head_dim;
        let keys = if head_dim <= 64 { 64 } else { 48 }; // as KEYS in the source
        let shared = (PREFILL_ROWS + 2 * keys) * (head_dim + 8) * size_of::<u16>();
        let [heads, kv_heads] = self.heads()?;
        let args = [
            &self.inputs[..],
            &[
                self.out,
                size(self.sequences.len())?.into(),
                size(self.batch.max_blocks_per_seq)?.into(),
                heads,
                kv_heads,
                self.block_size.trailing_zeros().into(),
                size(plan.max_queries)?.into(),
                self.scale.into(),
            ],
        ]
        .concat();
        let grid = [size(plan.prefill_tiles)?, size(self.dims.num_kv_heads)?, 1];
        let config = LaunchConfig::new(grid, [THREADS, 1, 1]).shared(size(shared)?);
        let kernel = self
            .cuda
            .kernel("paged_attention_prefill", kernels.prefill)?;
        // SAFETY: as in `decode`; the shared memory is what the kernel uses.
        unsafe { self.cuda.launch(kernel, &config.overlapping(), &args) }
    }

    /// All sequences, without tensor cores.
    fn any(&self, kv: &KvLayer) -> Result<(), KernelError> {
        let name = match kv.dtype() {
            KvDType::F32 => "paged_attention_any_f32",
            KvDType::F16 => "paged_attention_any_f16",
            KvDType::BF16 => "paged_attention_any_bf16",
            KvDType::Fp8 => "paged_attention_any_e4m3",
            KvDType::Q8_0 => return Err(kv.not_on_cuda(OP)),
        };
        if self.dims.head_dim > MAX_HEAD_DIM {
            return Err(KernelError::Value {
                op: OP,
                name: "head_dim",
                found: self.dims.head_dim,
                rule: "at most 256 on a graphics processor",
            });
        }
        let [heads, kv_heads] = self.heads()?;
        let args = [
            &self.inputs[..],
            &[
                self.out,
                size(self.sequences.len())?.into(),
                size(self.batch.max_blocks_per_seq)?.into(),
                heads,
                kv_heads,
                size(self.dims.head_dim)?.into(),
                size(self.block_size)?.into(),
                self.scale.into(),
            ],
        ]
        .concat();
        let tokens = self.batch.query_start.last().copied().unwrap_or(0);
        // A warp per query and head.
        let heads = size(self.dims.num_heads.div_ceil(THREADS as usize / 32))?;
        let config = LaunchConfig::new([tokens, heads, 1], [THREADS, 1, 1]).overlapping();
        let kernel = self.cuda.kernel("paged_attention_any", name)?;
        // SAFETY: as in `decode`.
        unsafe { self.cuda.launch(kernel, &config, &args) }
    }

    fn heads(&self) -> Result<[KernelArg; 2], KernelError> {
        let dims = self.dims;
        Ok([
            size(dims.num_heads)?.into(),
            size(dims.num_kv_heads)?.into(),
        ])
    }
}

fn size(found: usize) -> Result<u32, KernelError> {
    size_arg(OP, "a size", found)
}
