//! The scalar reference: softmax over all positions at once, as in the definition.

use super::batch::Sequence;
use crate::KvLayer;

/// One query of one head: `out = softmax(scale · q·Kᵀ) · V` over the first `visible` positions of
/// the sequence.
pub(super) fn attend(
    q: &[f32],
    kv: &KvLayer,
    sequence: &Sequence<'_>,
    kv_head: usize,
    visible: usize,
    scale: f32,
    out: &mut [f32],
) {
    let place = |position: usize| {
        (
            sequence.block_table[position / kv.block_size()] as usize,
            position % kv.block_size(),
        )
    };
    let mut weights: Vec<f32> = (0..visible)
        .map(|position| {
            let (block, offset) = place(position);
            let dot: f32 = q
                .iter()
                .enumerate()
                .map(|(d, q)| q * kv.key(block, kv_head, offset, d))
                .sum();
            dot * scale
        })
        .collect();
    let largest = weights
        .iter()
        .fold(f32::NEG_INFINITY, |largest, score| largest.max(*score));
    weights
        .iter_mut()
        .for_each(|weight| *weight = (*weight - largest).exp());
    let sum: f32 = weights.iter().sum();
    out.fill(0.0);
    for (position, weight) in weights.iter().enumerate() {
        let (block, offset) = place(position);
        for (d, out) in out.iter_mut().enumerate() {
            *out += weight / sum * kv.value(block, kv_head, offset, d);
        }
    }
}
