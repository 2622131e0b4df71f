//! Work on a byte buffer in pieces, on all threads of a pool.

use std::sync::{Mutex, PoisonError};

use glm_kernels::{KernelError, ThreadPool};

/// Calls `fill(index, piece)` for every run of `piece_len` bytes of `out`, the last of which may be shorter. One of the
/// errors is returned if there are any; the buffer's content is of no use then.
///
/// # Panics
/// If `piece_len` is 0.
pub(crate) fn fill_pieces(
    pool: &ThreadPool,
    out: &mut [u8],
    piece_len: usize,
    fill: impl Fn(usize, &mut [u8]) -> Result<(), KernelError> + Sync,
) -> Result<(), KernelError> {
    // Each task locks its own piece once: the locks only hand out what is disjoint.
    let pieces: Vec<_> = out.chunks_mut(piece_len).map(Mutex::new).collect();
    let failure = Mutex::new(None);
    pool.for_each(pieces.len(), |task| {
        let mut piece = pieces[task].lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = fill(task, &mut piece) {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_filled_once_and_an_error_comes_back() {
        let pool = ThreadPool::new(3).unwrap();
        let mut out = vec![0; 103];
        fill_pieces(&pool, &mut out, 10, |index, piece| {
            piece.iter_mut().for_each(|byte| *byte += index as u8 + 1);
            Ok(())
        })
        .unwrap();
        let expected: Vec<u8> = (0..103).map(|i| i / 10 + 1).collect();
        assert_eq!(out, expected);
        let failed = fill_pieces(&pool, &mut out, 10, |index, _| match index {
            7 => Err(KernelError::Threads(7)),
            _ => Ok(()),
        });
        assert_eq!(failed, Err(KernelError::Threads(7)));
    }
}
