//! Causal attention over paged keys and values: `out = softmax(scale · q·Kᵀ) · V` for every query
//! of a step and every head.
//!
//! Prefill, decode and mixtures are one path. The queries of a sequence and the heads that share a
//! KV head form tiles (`plan`); a tile meets the keys in chunks, each block being read once for all
//! its rows (`simd`), and keeps a running maximum and sum (one-pass softmax). A tile of a long
//! context is shared by several threads, chunk by chunk, and the chunks are then folded in order:
//! the very sums that one thread would form.

mod batch;
mod plan;
mod reference;
mod simd;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use crate::memory::Buffer;
use crate::parallel::SharedMut;
use crate::simd::{Kernel, run};
use crate::{AttnDims, DType, Isa, KernelError, KvLayer, Tensor, Work};

pub use batch::AttnBatch;
use batch::Sequence;
use plan::{CHUNK, Plan, Task, Tile};
use simd::{AttendChunk, Fold, PANEL, Partial, ROWS, Scratch};

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
    batch: &AttnBatch<'_>,
    dims: AttnDims,
    scale: f32,
) -> Result<Tensor, KernelError> {
    dims.check(OP, kv)?;
    let (tokens, _) = q.dims2(OP, "q")?;
    q.expect_shape(OP, "q", &[tokens, dims.q_len()])?;
    let sequences = batch.sequences(tokens, kv)?;
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
        _ => step.run_tiles(q, &shared)?,
    }
    Ok(out)
}

/// Every stored key and value is read once; a query and a position make a product of keys and one of values.
fn work(sequences: &[Sequence<'_>], kv: &KvLayer, dims: AttnDims) -> Work {
    let stored: usize = sequences.iter().map(|sequence| sequence.context_len).sum();
    let pairs: u64 = sequences
        .iter()
        .map(|sequence| {
            let (first, last) = (
                sequence.visible(0) as u64,
                sequence.context_len as u64,
            );
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

    fn run_tiles(&self, q: &Tensor, out: &SharedMut<'_, f32>) -> Result<(), KernelError> {
        let device = q.device();
        let plan = Plan::new(self.sequences, self.dims, device.num_threads());
        let sizes = Sizes::new(plan.max_rows(self.dims), self.dims.head_dim);
        let allocate = |len: usize| device.allocate(len * size_of::<f32>());
        let workspaces = Workspaces::new(
            (0..device.num_threads().min(plan.tasks.len())).map(|_| allocate(sizes.workspace())),
        )?;
        let mut partials = allocate(plan.num_partials * sizes.partial())?;
        let partials = SharedMut::new(partials.as_slice_of_mut::<f32>());
        device.pool().for_each(plan.tasks.len(), |index| {
            let task = &plan.tasks[index];
            workspaces.with(|memory| {
                let workspace = sizes.split(memory);
                match task.partial {
                    None => self.whole_tile(&plan.tiles[task.tile], workspace, out),
                    Some(slot) => {
                        // SAFETY: each task has its own slot.
                        let partial =
                            unsafe { partials.slice(slot * sizes.partial(), sizes.partial()) };
                        self.one_chunk(
                            &plan.tiles[task.tile],
                            task,
                            workspace,
                            sizes.split_partial(partial),
                        );
                    }
                }
            });
        });
        device.pool().for_each(plan.shared.len(), |index| {
            let (tile, first_slot) = plan.shared[index];
            workspaces.with(|memory| {
                let mut total = sizes.split(memory).total;
                let tile = &plan.tiles[tile];
                total.clear();
                for slot in first_slot..first_slot + tile.chunks() {
                    // SAFETY: each task has its own tile and so its own slots, and the tasks that
                    // wrote them have ended.
                    let partial =
                        unsafe { partials.slice(slot * sizes.partial(), sizes.partial()) };
                    self.fold(tile, &mut total, &sizes.split_partial(partial));
                }
                self.finish(tile, &total, out);
            });
        });
        Ok(())
    }

    fn whole_tile(&self, tile: &Tile, workspace: Workspace<'_>, out: &SharedMut<'_, f32>) {
        let Workspace {
            q,
            mut scratch,
            mut next,
            mut total,
        } = workspace;
        let rows = self.load_queries(tile, q);
        total.clear();
        for chunk in 0..tile.chunks() {
            self.attend(
                tile,
                chunk,
                &q[..rows * self.dims.head_dim],
                scratch.reborrow(),
                next.reborrow(),
            );
            self.fold(tile, &mut total, &next);
        }
        self.finish(tile, &total, out);
    }

    fn one_chunk(&self, tile: &Tile, task: &Task, workspace: Workspace<'_>, out: Partial<'_>) {
        let rows = self.load_queries(tile, workspace.q);
        self.attend(
            tile,
            task.chunks.start,
            &workspace.q[..rows * self.dims.head_dim],
            workspace.scratch,
            out,
        );
    }

    /// Copies the tile's queries, scaled, row by row: the heads of the first query, then those of
    /// the next. Returns how many rows that is, rows of zeros included that make up the last group
    /// of [`ROWS`].
    fn load_queries(&self, tile: &Tile, q: &mut [f32]) -> usize {
        let (dims, head_dim) = (self.dims, self.dims.head_dim);
        let width = dims.group() * head_dim;
        let first_token = self.sequences[tile.sequence].first_token + tile.first_query;
        for (i, q) in q.chunks_exact_mut(width).take(tile.queries).enumerate() {
            let from = &self.q[(first_token + i) * dims.q_len() + tile.kv_head * width..][..width];
            for (q, from) in q.iter_mut().zip(from) {
                *q = from * self.scale;
            }
        }
        let rows = tile.rows(dims);
        let padded = rows.next_multiple_of(ROWS);
        q[rows * head_dim..padded * head_dim].fill(0.0);
        padded
    }

    fn attend(&self, tile: &Tile, chunk: usize, q: &[f32], scratch: Scratch<'_>, out: Partial<'_>) {
        let sequence = &self.sequences[tile.sequence];
        self.vectors(AttendChunk {
            kv: self.kv,
            block_table: sequence.block_table,
            kv_head: tile.kv_head,
            keys: chunk * CHUNK..tile.keys.min((chunk + 1) * CHUNK),
            q,
            group: self.dims.group(),
            first_visible: sequence.visible(tile.first_query),
            scratch,
            out,
        });
    }

    fn fold(&self, tile: &Tile, total: &mut Partial<'_>, next: &Partial<'_>) {
        self.vectors(Fold {
            total: total.reborrow(),
            next,
            rows: tile.rows(self.dims),
        });
    }

    /// Divides by the sums and writes the tile's part of the output.
    fn finish(&self, tile: &Tile, total: &Partial<'_>, out: &SharedMut<'_, f32>) {
        let (dims, head_dim) = (self.dims, self.dims.head_dim);
        let first_token = self.sequences[tile.sequence].first_token + tile.first_query;
        let padded_dim = head_dim.next_multiple_of(PANEL);
        for (row, acc) in total
            .acc
            .chunks_exact(padded_dim)
            .take(tile.rows(dims))
            .enumerate()
        {
            let head = tile.kv_head * dims.group() + row % dims.group();
            let start = (first_token + row / dims.group()) * dims.q_len() + head * head_dim;
            // SAFETY: tiles have different queries or KV heads, and each is finished by one task.
            let out = unsafe { out.slice(start, head_dim) };
            for (out, acc) in out.iter_mut().zip(acc) {
                *out = acc / total.sum[row];
            }
        }
    }

    fn vectors<K: Kernel<Output = ()>>(&self, kernel: K) {
        let done = run(self.isa, kernel);
        debug_assert!(done.is_ok(), "the scalar path has no tiles");
    }
}

/// Lengths of what a task works on, in f32s.
#[derive(Clone, Copy)]
struct Sizes {
    /// Rows of the largest tile, in whole groups of [`ROWS`].
    rows: usize,
    head_dim: usize,
    padded_dim: usize,
}

/// What a task works on.
struct Workspace<'a> {
    /// `[rows, D]`
    q: &'a mut [f32],
    scratch: Scratch<'a>,
    next: Partial<'a>,
    total: Partial<'a>,
}

impl Sizes {
    fn new(rows: usize, head_dim: usize) -> Self {
        Self {
            rows: rows.next_multiple_of(ROWS),
            head_dim,
            padded_dim: head_dim.next_multiple_of(PANEL),
        }
    }

    /// A [`Partial`].
    fn partial(&self) -> usize {
        self.rows * (self.padded_dim + 2)
    }

    /// A [`Workspace`].
    fn workspace(&self) -> usize {
        self.rows * (self.head_dim + CHUNK)
            + CHUNK * (self.head_dim + self.padded_dim)
            + 2 * self.partial()
    }

    fn split<'a>(&self, memory: &'a mut [f32]) -> Workspace<'a> {
        let (keys, memory) = memory.split_at_mut(CHUNK * self.head_dim);
        let (values, memory) = memory.split_at_mut(CHUNK * self.padded_dim);
        let (scores, memory) = memory.split_at_mut(self.rows * CHUNK);
        let (q, memory) = memory.split_at_mut(self.rows * self.head_dim);
        let (next, total) = memory.split_at_mut(self.partial());
        Workspace {
            q,
            scratch: Scratch {
                keys,
                values,
                scores,
            },
            next: self.split_partial(next),
            total: self.split_partial(total),
        }
    }

    fn split_partial<'a>(&self, memory: &'a mut [f32]) -> Partial<'a> {
        let (acc, memory) = memory.split_at_mut(self.rows * self.padded_dim);
        let (max, sum) = memory.split_at_mut(self.rows);
        Partial { max, sum, acc }
    }
}

impl Scratch<'_> {
    fn reborrow(&mut self) -> Scratch<'_> {
        Scratch {
            keys: self.keys,
            values: self.values,
            scores: self.scores,
        }
    }
}

impl Partial<'_> {
    fn reborrow(&mut self) -> Partial<'_> {
        Partial {
            max: self.max,
            sum: self.sum,
            acc: self.acc,
        }
    }

    /// Nothing known yet.
    fn clear(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.acc.fill(0.0);
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
