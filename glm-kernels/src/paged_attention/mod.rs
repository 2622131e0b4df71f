//! Causal attention over paged keys and values: `out = softmax(scale · q·Kᵀ) · V` for every query
//! of a step and every head.
//!
//! Prefill, decode and mixtures are one path. The queries of a sequence and the heads that share a
//! KV head form tiles (`plan`); a tile meets the keys in chunks, each block being read once for all
//! its rows, and keeps a running maximum and sum (one-pass softmax, `chunk`). A tile of a long
//! context is shared by several threads, chunk by chunk, and the chunks are then folded in order:
//! the very sums that one thread would form. How a chunk is multiplied is a matter of the
//! instruction set: f32 vectors of any width (`simd`), or a matrix unit that takes numbers as sums
//! of two bf16 (`amx`).
//!
//! # What it costs
//! A query and a key of one head take `2·D` multiply-adds, one `exp2` and no memory of their own; a
//! KV head of a position is `2·D` stored values, read once per tile. Decoding is therefore bound by
//! memory: 8 MiB in a layer of GLM-Edge-1.5B (H = 16, KVH = 4, D = 128) after 4096 tokens in f16.
//! Prefill is bound by arithmetic: 512 queries after 4096 tokens are 9.1 G multiply-adds in that
//! layer.
//!
//! The matrix unit does 512 multiply-adds of bf16 in a cycle, 1.28 T/s at the clock that it runs at
//! (2.5 GHz); three products for one leave 425 G/s. Vector work does not overlap with it, since both
//! want the same port. For 32 rows and 256 keys the products take 12.3 thousand cycles, the softmax
//! 4.9, folding 0.9 and packing, for a tile of 512 rows, 1.2: 272 G/s is what this form can reach.
//!
//! Measured in CPU time of one core of two (AVX-512 and AMX, 2.6 GHz) that others used too, keys and
//! values in f16, the layer above:
//!
//! | | prefill, 512 after 4096 | decode after 4096, layers in turn |
//! |---|---|---|
//! | AMX | 41 ms, 223 G multiply-adds/s (bf16 or q8_0 stored: 33 ms, 280) | 0.67 ms, 12.5 GB/s |
//! | AVX-512 | 126 ms, 72 of the 83 that f32 can do | 0.90 ms, 9.3 GB/s |
//! | AVX2 | 205 ms, 44 | not measured |
//!
//! Plain reads of memory ran at 16 GB/s beside it. From the last-level cache, decoding runs at 17
//! GB/s; what is missing is time that packing and waiting do not share.

#[cfg(target_arch = "x86_64")]
mod amx;
mod batch;
mod chunk;
mod cuda;
mod plan;
mod reference;
mod simd;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use crate::memory::Buffer;
use crate::parallel::SharedMut;
use crate::simd::run;
use crate::{AttnDims, DType, Isa, KernelError, KvLayer, Tensor, Work};

pub use batch::AttnBatch;
use batch::Sequence;
use chunk::{Chunk, Fold, Form, Output, PADDING, Partial, Queries, UNIT};
use plan::{CHUNK, Plan, Task, Tile};

const OP: &str = "paged_attention";

/// Causal attention of this step's queries over each sequence's keys and values: `[T, H*D]`.
///
/// - `q`: `[T, H*D]`, already rotated.
/// - `scale`: multiplies `q · k` before the softmax, usually `1 / sqrt(D)`.
/// - Query `i` of the `n` queries of a sequence stands at position `context_len - n + i` and sees
///   that and all before, which must be stored already.
///
/// Scores and sums are f32 for every storage type. A query's result depends on its own sequence
/// alone: not on the rest of the batch, on how a prompt is cut into steps, on which blocks hold the
/// keys or on the number of threads.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Length`] or [`KernelError::Value`] if arguments do not
/// fit each other, [`KernelError::Index`] for a block that `kv` does not have.
///
/// Source: Kwon et al. 2023 (arXiv:2309.06180) for the blocks; Milakov & Gimelshein 2018
/// (arXiv:1805.02867) for one-pass softmax; Dao et al. 2023 (Flash-Decoding) for sharing a context.
pub fn paged_attention(
    q: &Tensor,
    kv: &KvLayer,
    batch: &AttnBatch,
    dims: AttnDims,
    scale: f32,
) -> Result<Tensor, KernelError> {
    dims.check(OP, kv)?;
    q.device().check_same(OP, "kv", kv.device())?;
    let (tokens, _) = q.dims2(OP, "q")?;
    q.expect_shape(OP, "q", &[tokens, dims.q_len()])?;
    let sequences = batch.sequences(tokens, kv)?;
    if let Some(cuda) = q.device().as_cuda() {
        q.expect_dtype(OP, DType::F32)?;
        return cuda::paged_attention(cuda, q, kv, batch, &sequences, dims, scale);
    }
    let _span = q.device().record(|| work(&sequences, kv, dims));
    let mut out = Tensor::empty(q.device(), DType::F32, q.shape())?;
    let step = Step {
        q: q.as_f32()?,
        kv,
        sequences: &sequences,
        dims,
        scale,
        isa: q.device().isa(),
    };
    let shared = SharedMut::new(out.as_f32_mut()?);
    match step.isa {
        Isa::Scalar => step.run_reference(q, &shared),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(cpu) => step.run_tiles(amx::Matrix { cpu }, q, &shared)?,
        #[cfg(target_arch = "x86_64")]
        isa @ (Isa::Avx2(_) | Isa::Avx512(_)) => {
            step.run_tiles(simd::Vectors { isa }, q, &shared)?
        }
        #[cfg(target_arch = "aarch64")]
        isa @ Isa::Neon(_) => step.run_tiles(simd::Vectors { isa }, q, &shared)?,
    }
    Ok(out)
}

/// Every stored key and value is read once; a query and a position make a product of keys and one of values.
fn work(sequences: &[Sequence<'_>], kv: &KvLayer, dims: AttnDims) -> Work {
    let stored: usize = sequences.iter().map(|sequence| sequence.context_len).sum();
    let pairs: u64 = sequences
        .iter()
        .map(|sequence| {
            let (first, last) = (sequence.visible(0) as u64, sequence.context_len as u64);
            (first + last) * sequence.queries as u64 / 2
        })
        .sum();
    let operations = 4 * pairs * dims.q_len() as u64;
    let bytes = kv.dtype().bytes_per_token(dims.num_kv_heads, dims.head_dim);
    Work::computing(OP, [0, 0], stored * bytes, operations)
}

/// The arguments, checked.
struct Step<'a> {
    q: &'a [f32],
    kv: &'a KvLayer,
    sequences: &'a [Sequence<'a>],
    dims: AttnDims,
    scale: f32,
    isa: Isa,
}

impl Step<'_> {
    /// Every query and head by itself, in plain Rust.
    fn run_reference(&self, q: &Tensor, out: &SharedMut<'_, f32>) {
        let (dims, head_dim) = (self.dims, self.dims.head_dim);
        for sequence in self.sequences {
            q.device()
                .pool()
                .for_each(sequence.queries * dims.num_heads, |task| {
                    let (query, head) = (task / dims.num_heads, task % dims.num_heads);
                    let start = (sequence.first_token + query) * dims.q_len() + head * head_dim;
                    // SAFETY: each task has its own query and head.
                    let out = unsafe { out.slice(start, head_dim) };
                    let q = &self.q[start..start + head_dim];
                    reference::attend(
                        q,
                        self.kv,
                        sequence,
                        head / dims.group(),
                        sequence.visible(query),
                        self.scale,
                        out,
                    );
                });
        }
    }

    /// Tile by tile, in the form of an instruction set.
    fn run_tiles<F: Form>(
        &self,
        form: F,
        q: &Tensor,
        out: &SharedMut<'_, f32>,
    ) -> Result<(), KernelError> {
        let device = q.device();
        let threads = device.num_threads();
        let plan = Plan::new(self.sequences, self.dims, F::MAX_ROWS, threads);
        let sizes = Sizes::new(&form, plan.max_rows(self.dims), self.dims.head_dim);
        let allocate = |len: usize| device.allocate(len * size_of::<f32>());
        let workspaces = Workspaces::new(
            (0..threads.min(plan.tasks.len())).map(|_| allocate(sizes.workspace())),
        )?;
        let mut partials = allocate(plan.num_partials * sizes.partial(sizes.rows))?;
        let partials = SharedMut::new(partials.as_slice_of_mut::<f32>());
        // SAFETY: each chunk of a shared tile has its own slot. It belongs to one task of the first region, and in the second, when that is
        // over, to the one that has the tile.
        let partial = |slot: usize, tile: &Tile| unsafe {
            let len = sizes.partial(sizes.rows);
            sizes.split_partial(tile.rows(self.dims), partials.slice(slot * len, len))
        };
        device.pool().for_each(plan.tasks.len(), |index| {
            let task = &plan.tasks[index];
            let tile = &plan.tiles[task.tile];
            workspaces.with(|memory| {
                let mut workspace = sizes.split(tile.rows(self.dims), memory);
                form.load_queries(&self.queries(tile), workspace.form);
                workspace.total.clear();
                for chunk in task.chunks.clone() {
                    let output = match task.partial {
                        Some(slot) => Output::Kept(partial(slot + chunk, tile)),
                        None => Output::Added {
                            total: workspace.total.reborrow(),
                            next: workspace.next.reborrow(),
                        },
                    };
                    let chunk = self.chunk(tile, chunk, task);
                    form.attend(&chunk, workspace.form, output);
                }
                if task.partial.is_none() {
                    self.finish(tile, &workspace.total, out);
                }
            });
        });
        device.pool().for_each(plan.shared.len(), |index| {
            let (tile, slot) = plan.shared[index];
            let tile = &plan.tiles[tile];
            workspaces.with(|memory| {
                let mut total = sizes.split(tile.rows(self.dims), memory).total;
                total.clear();
                for chunk in 0..tile.chunks() {
                    let fold = Fold {
                        total: total.reborrow(),
                        next: partial(slot + chunk, tile),
                    };
                    let done = run(self.isa, fold);
                    debug_assert!(done.is_ok(), "the scalar path has no tiles");
                }
                self.finish(tile, &total, out);
            });
        });
        Ok(())
    }

    fn queries(&self, tile: &Tile) -> Queries<'_> {
        let dims = self.dims;
        let first_token = self.sequences[tile.sequence].first_token + tile.first_query;
        let first_head = tile.kv_head * dims.group();
        Queries {
            q: &self.q[first_token * dims.q_len() + first_head * dims.head_dim..],
            stride: dims.q_len(),
            group: dims.group(),
            head_dim: dims.head_dim,
            rows: tile.rows(dims),
            scale: self.scale * std::f32::consts::LOG2_E,
        }
    }

    fn chunk(&self, tile: &Tile, chunk: usize, task: &Task) -> Chunk<'_> {
        let sequence = &self.sequences[tile.sequence];
        Chunk {
            kv: self.kv,
            block_table: sequence.block_table,
            kv_head: tile.kv_head,
            keys: chunk * CHUNK..tile.keys.min((chunk + 1) * CHUNK),
            rows: tile.rows(self.dims),
            group: self.dims.group(),
            first_visible: sequence.visible(tile.first_query),
            continues: chunk + 1 < task.chunks.end,
        }
    }

    /// Divides by the sums and writes the tile's part of the output.
    fn finish(&self, tile: &Tile, total: &Partial<'_>, out: &SharedMut<'_, f32>) {
        let (dims, head_dim) = (self.dims, self.dims.head_dim);
        let first_token = self.sequences[tile.sequence].first_token + tile.first_query;
        let padded_dim = head_dim.next_multiple_of(PADDING);
        for (row, acc) in total.acc.chunks_exact(padded_dim).enumerate() {
            let head = tile.kv_head * dims.group() + row % dims.group();
            let start = (first_token + row / dims.group()) * dims.q_len() + head * head_dim;
            // SAFETY: tiles have different queries or KV heads, and each is finished by one task.
            let out = unsafe { out.slice(start, head_dim) };
            for (out, acc) in out.iter_mut().zip(acc) {
                *out = acc / total.sum[row];
            }
        }
    }
}

/// Lengths of what a task works on, in f32s; all parts start at multiples of [`PADDING`].
#[derive(Clone, Copy)]
struct Sizes {
    /// Rows of the largest tile.
    rows: usize,
    padded_dim: usize,
    /// What the form asks for.
    form: usize,
}

/// What a task works on.
struct Workspace<'a> {
    form: &'a mut [f32],
    next: Partial<'a>,
    total: Partial<'a>,
}

impl Sizes {
    fn new<F: Form>(form: &F, rows: usize, head_dim: usize) -> Self {
        Self {
            rows,
            padded_dim: head_dim.next_multiple_of(PADDING),
            form: form.workspace(rows, head_dim).next_multiple_of(PADDING),
        }
    }

    /// A [`Partial`] of so many rows.
    fn partial(&self, rows: usize) -> usize {
        (rows * (self.padded_dim + 2)).next_multiple_of(PADDING)
    }

    /// A [`Workspace`].
    fn workspace(&self) -> usize {
        self.form + self.partial(self.rows.min(UNIT)) + self.partial(self.rows)
    }

    /// A workspace for a tile of `rows` rows.
    fn split<'a>(&self, rows: usize, memory: &'a mut [f32]) -> Workspace<'a> {
        let (form, memory) = memory.split_at_mut(self.form);
        let (next, total) = memory.split_at_mut(self.partial(self.rows.min(UNIT)));
        Workspace {
            form,
            next: self.split_partial(rows.min(UNIT), next),
            total: self.split_partial(rows, total),
        }
    }

    fn split_partial<'a>(&self, rows: usize, memory: &'a mut [f32]) -> Partial<'a> {
        let (acc, memory) = memory.split_at_mut(rows * self.padded_dim);
        let (max, memory) = memory.split_at_mut(rows);
        Partial {
            max,
            sum: &mut memory[..rows],
            acc,
        }
    }
}

/// A workspace for each thread, taken before the work starts so that nothing can fail in the midst
/// of it.
struct Workspaces(Mutex<Vec<Buffer>>);

impl Workspaces {
    fn new(
        buffers: impl Iterator<Item = Result<Buffer, KernelError>>,
    ) -> Result<Self, KernelError> {
        Ok(Self(Mutex::new(buffers.collect::<Result<_, _>>()?)))
    }

    fn with(&self, work: impl FnOnce(&mut [f32])) {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buffer = lock().pop();
        // No more tasks run at once than there are threads, so each finds a workspace.
        let mut buffer = buffer.expect("a workspace per thread");
        work(buffer.as_slice_of_mut());
        lock().push(buffer);
    }
}
