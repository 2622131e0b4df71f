//! How the work is cut. Results depend on none of it: every row of queries meets the same chunks of
//! keys in the same order, wherever it runs.

use std::ops::Range;

use super::batch::Sequence;
use super::chunk::UNIT;
use crate::AttnDims;

/// Keys that are read, scored and summed as a unit; chunk boundaries are at multiples of it from
/// the start of a sequence. Keys and values of a chunk, brought into the form that the products
/// need, take 256 KiB at `D` = 128, which second-level caches hold; each chunk costs one rescaling
/// of the sums.
pub(super) const CHUNK: usize = 256;

/// Tasks per thread to aim at: enough to level out tasks of different length.
const TASKS_PER_THREAD: usize = 4;

/// Some queries of one sequence and the heads that share one KV head: what meets each chunk of keys
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// The index of the sequence.
    pub sequence: usize,
    pub kv_head: usize,
    /// The first query, counted within the sequence.
    pub first_query: usize,
    pub queries: usize,
    /// How many positions the last query sees.
    pub keys: usize,
}

impl Tile {
    pub fn rows(&self, dims: AttnDims) -> usize {
        self.queries * dims.group()
    }

    pub fn chunks(&self) -> usize {
        self.keys.div_ceil(CHUNK)
    }

    fn cost(&self, dims: AttnDims) -> usize {
        // Reading keys costs about as much as scoring them for sixteen rows.
        self.keys * (self.rows(dims) + 16)
    }
}

/// What one task does: a whole tile, or some chunks of a tile that is shared by several tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub tile: usize,
    pub chunks: Range<usize>,
    /// Where the result of a shared tile's first chunk is kept until all of them are there; those
    /// of the others follow.
    pub partial: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub tiles: Vec<Tile>,
    pub tasks: Vec<Task>,
    /// Tiles that are shared by several tasks, and the partial result of their first chunk.
    pub shared: Vec<(usize, usize)>,
    pub num_partials: usize,
}

impl Plan {
    /// Tiles of at most `max_rows` rows, unless the heads of one query are more.
    pub fn new(
        sequences: &[Sequence<'_>],
        dims: AttnDims,
        max_rows: usize,
        threads: usize,
    ) -> Self {
        let enough = if threads == 1 {
            1
        } else {
            TASKS_PER_THREAD * threads
        };
        let mut tiles = tiles(sequences, dims, max_rows, enough);
        // The longest first, so that no long one is left to run alone at the end.
        tiles.sort_by_key(|tile| std::cmp::Reverse(tile.cost(dims)));
        let total: usize = tiles.iter().map(|tile| tile.cost(dims)).sum();
        let fair_share = total / enough;
        let mut plan = Self {
            tiles,
            ..Self::default()
        };
        for (index, tile) in plan.tiles.iter().enumerate() {
            let (chunks, cost) = (tile.chunks(), tile.cost(dims));
            if threads == 1 || chunks == 1 || cost <= fair_share {
                plan.tasks.push(Task {
                    tile: index,
                    chunks: 0..chunks,
                    partial: None,
                });
                continue;
            }
            let first = plan.num_partials;
            plan.shared.push((index, first));
            plan.num_partials += chunks;
            let pieces = cost.div_ceil(fair_share.max(1)).min(chunks);
            let bound = |piece: usize| piece * chunks / pieces;
            plan.tasks.extend((0..pieces).map(|piece| Task {
                tile: index,
                chunks: bound(piece)..bound(piece + 1),
                partial: Some(first),
            }));
        }
        plan
    }

    /// The rows of the largest tile.
    pub fn max_rows(&self, dims: AttnDims) -> usize {
        self.tiles
            .iter()
            .map(|tile| tile.rows(dims))
            .max()
            .unwrap_or(0)
    }
}

/// Tiles as large as `max_rows` allows, or smaller ones if those would be fewer than `enough`: sharing
/// a context has a price, and what it is shared for is threads that have nothing else to do.
fn tiles(sequences: &[Sequence<'_>], dims: AttnDims, max_rows: usize, enough: usize) -> Vec<Tile> {
    let count = |queries_per_tile: usize| -> usize {
        let tiles = sequences
            .iter()
            .map(|sequence| sequence.queries.div_ceil(queries_per_tile));
        dims.num_kv_heads * tiles.sum::<usize>()
    };
    let mut queries_per_tile = (max_rows / dims.group()).max(1);
    while queries_per_tile * dims.group() >= 2 * UNIT && count(queries_per_tile) < enough {
        queries_per_tile /= 2;
    }
    let mut tiles = Vec::new();
    for (index, sequence) in sequences.iter().enumerate() {
        for first_query in (0..sequence.queries).step_by(queries_per_tile) {
            let queries = queries_per_tile.min(sequence.queries - first_query);
            let keys = sequence.visible(first_query + queries - 1);
            tiles.extend((0..dims.num_kv_heads).map(|kv_head| Tile {
                sequence: index,
                kv_head,
                first_query,
                queries,
                keys,
            }));
        }
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_ROWS: usize = 64;
    const DIMS: AttnDims = AttnDims {
        num_heads: 32,
        num_kv_heads: 2,
        head_dim: 128,
    };

    fn sequence(queries: usize, context_len: usize) -> Sequence<'static> {
        Sequence {
            first_token: 0,
            queries,
            context_len,
            block_table: &[],
        }
    }

    #[test]
    fn a_single_long_stream_is_shared_by_all_threads() {
        let plan = Plan::new(&[sequence(1, 8192)], DIMS, MAX_ROWS, 8);
        assert_eq!(plan.tiles.len(), 2);
        assert_eq!(plan.tasks.len(), TASKS_PER_THREAD * 8);
        assert_eq!(plan.num_partials, 2 * 8192 / CHUNK);
    }

    #[test]
    fn many_streams_are_not_cut_and_need_no_partial_results() {
        let plan = Plan::new(&[sequence(1, 1000); 64], DIMS, MAX_ROWS, 4);
        assert_eq!((plan.tasks.len(), plan.num_partials), (128, 0));
    }

    #[test]
    fn one_long_stream_among_short_ones_is_cut_and_starts_first() {
        let mut sequences = vec![sequence(1, 100); 20];
        sequences.push(sequence(1, 100_000));
        let plan = Plan::new(&sequences, DIMS, MAX_ROWS, 4);
        assert_eq!(plan.shared.len(), 2);
        assert_eq!(plan.tiles[plan.tasks[0].tile].sequence, 20);
    }

    #[test]
    fn few_queries_make_small_tiles_rather_than_shared_ones() {
        let plan = Plan::new(&[sequence(64, 64)], DIMS, 512, 2);
        assert_eq!((plan.tiles.len(), plan.num_partials), (8, 0));
        let plan = Plan::new(&[sequence(512, 512)], DIMS, 512, 2);
        assert_eq!(plan.tiles[0].rows(DIMS), 512);
    }

    #[test]
    fn every_query_meets_every_key_it_sees_once() {
        let sequences = [
            sequence(1, 1),
            sequence(7, 300),
            sequence(0, 5),
            sequence(129, 1025),
        ];
        for threads in [1, 2, 16] {
            let plan = Plan::new(&sequences, DIMS, MAX_ROWS, threads);
            let queries: usize = plan.tiles.iter().map(|tile| tile.queries).sum();
            assert_eq!(queries, DIMS.num_kv_heads * (1 + 7 + 129));
            for (index, tile) in plan.tiles.iter().enumerate() {
                assert!(tile.rows(DIMS) <= MAX_ROWS);
                let mut chunks: Vec<usize> = plan
                    .tasks
                    .iter()
                    .filter(|task| task.tile == index)
                    .flat_map(|task| task.chunks.clone())
                    .collect();
                chunks.sort_unstable();
                assert_eq!(chunks, (0..tile.chunks()).collect::<Vec<_>>());
                assert_eq!(
                    tile.keys,
                    sequences[tile.sequence].visible(tile.first_query + tile.queries - 1)
                );
            }
        }
    }
}
