//! The linear layer in plain loops and f64: what the kernels are compared with.

use super::activations::QuantizedRows;
use super::layout::BLOCK_COLS;

/// Result and, beside it, the sum of the magnitudes of the products: the scale of the rounding error.
pub(super) struct Product {
    pub value: f64,
    pub magnitude: f64,
}

/// `x · row + bias`.
pub(super) fn dot(x: &[f32], row: &[f32], bias: f32) -> Product {
    let products = x
        .iter()
        .zip(row)
        .map(|(x, w)| f64::from(*x) * f64::from(*w));
    let start = Product {
        value: f64::from(bias),
        magnitude: f64::from(bias.abs()),
    };
    products.fold(start, |sum, product| Product {
        value: sum.value + product,
        magnitude: sum.magnitude + product.abs(),
    })
}

/// Row `t`, of `cols` values, of the rounded activations as f32.
pub(super) fn rounded(x: &QuantizedRows, t: usize, cols: usize) -> Vec<f32> {
    let (tile, place) = x.place(t);
    (0..cols / BLOCK_COLS)
        .flat_map(|block| {
            // SAFETY: the tile has this token and block.
            let (codes, scale) = unsafe {
                let codes = tile.codes(block).add(place * BLOCK_COLS);
                (
                    *codes.cast::<[i8; BLOCK_COLS]>(),
                    *tile.scales(block).add(place),
                )
            };
            codes.map(|code| f32::from(code) * scale)
        })
        .collect()
}
