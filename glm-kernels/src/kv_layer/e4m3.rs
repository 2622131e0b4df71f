//! Floating-point numbers of 8 bits: a sign, 4 bits of exponent with bias 7 and 3 of fraction. The largest is
//! 448; there is no infinity, and all ones but the sign is NaN (Micikevicius et al. 2022,
//! arXiv:2209.05433, section 3.1).

use crate::memory::Element;
use crate::quant::to_e4m3;

/// A number, as it is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct E4m3(u8);

/// The values of all 256.
static VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut bits = 0;
    while bits < 256 {
        let (exponent, fraction) = (bits as u32 >> 3 & 15, bits as u32 & 7);
        let size = match (exponent, fraction) {
            (15, 7) => f32::NAN,
            (0, fraction) => fraction as f32 / 512.0,
            (exponent, fraction) => f32::from_bits((exponent + 120) << 23 | fraction << 20),
        };
        values[bits] = if bits < 128 { size } else { -size };
        bits += 1;
    }
    values
};

// SAFETY: a transparent wrapper of a byte, and every byte is a number.
unsafe impl Element for E4m3 {}

impl E4m3 {
    /// The nearest number, of two equally near ones the even one; beyond the largest, that.
    pub(crate) fn from_f32(x: f32) -> Self {
        Self(if x.is_nan() { 0x7f } else { to_e4m3(x) })
    }

    /// The value.
    #[inline(always)]
    pub(crate) fn to_f32(self) -> f32 {
        VALUES[self.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        for bits in 0..=255u8 {
            let value = E4m3(bits).to_f32();
            if bits & 0x7f == 0x7f {
                assert!(value.is_nan());
            } else {
                assert_eq!(E4m3::from_f32(value), E4m3(bits), "{value}");
            }
        }
        assert_eq!(VALUES[0x7e], 448.0);
        assert_eq!(VALUES[0x38], 1.0);
        assert_eq!(VALUES[1], 2f32.powi(-9));
    }

    #[test]
    fn what_lies_between_goes_to_the_nearest_or_the_even_one() {
        for bits in 0..0x7eu8 {
            let (low, high) = (E4m3(bits), E4m3(bits + 1));
            let middle = (low.to_f32() + high.to_f32()) / 2.0;
            let even = if bits % 2 == 0 { low } else { high };
            assert_eq!(E4m3::from_f32(middle), even, "{middle}");
            assert_eq!(E4m3::from_f32(-middle).to_f32(), -even.to_f32());
            assert_eq!(E4m3::from_f32(middle.next_down()), low, "{middle}");
            assert_eq!(E4m3::from_f32(middle.next_up()), high, "{middle}");
        }
        for large in [460.0, 1e9, f32::INFINITY] {
            assert_eq!(E4m3::from_f32(large).to_f32(), 448.0);
        }
        assert!(E4m3::from_f32(f32::NAN).to_f32().is_nan());
    }
}
