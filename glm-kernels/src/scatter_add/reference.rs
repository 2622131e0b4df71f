//! The scalar reference.

/// `out += scale * x`, each element rounded once.
pub(super) fn add_scaled(out: &mut [f32], x: &[f32], scale: f32) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = scale.mul_add(*x, *out);
    }
}
