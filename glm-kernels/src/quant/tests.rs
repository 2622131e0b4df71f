//! Reading is compared with gguf-py's implementation, writing with what the formats promise.

use proptest::prelude::*;

use super::*;

/// Random blocks of every format and their values according to gguf-py; made by `tests/data/make_blocks.py`.
const BLOCKS: &[u8] = include_bytes!("../../tests/data/blocks.bin");
const BLOCKS_PER_FORMAT: usize = 2;

/// Random values, and what GGML's own quantisers make of them; made by `tests/data/make_quantized.py`.
const QUANTIZED: &[u8] = include_bytes!("../../tests/data/quantized.bin");
const QUANTIZED_VALUES: usize = 8 * 256;

fn random(len: usize, seed: u64) -> Vec<f32> {
    // A sum of uniform numbers is close enough to the normal distribution of real weights.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len)
        .map(|_| (uniform() + uniform() + uniform() + uniform()) * 0.05)
        .collect()
}

fn rounded(format: WeightFormat, values: &[f32]) -> Vec<f32> {
    let mut bytes = vec![0xaa; format.row_bytes(values.len()).unwrap()];
    quantize(format, values, &mut bytes).unwrap();
    let mut out = vec![f32::NAN; values.len()];
    dequantize(format, &bytes, &mut out).unwrap();
    out
}

fn writable() -> impl Iterator<Item = WeightFormat> {
    WeightFormat::ALL
        .into_iter()
        .filter(|format| can_quantize(*format))
}

#[test]
fn every_block_format_reads_as_gguf_py_reads_it() {
    let mut rest = BLOCKS;
    for format in WeightFormat::ALL
        .into_iter()
        .filter(|format| format.is_quantized())
    {
        // The fixture is in the order of `ALL`.
        let len = BLOCKS_PER_FORMAT * format.block_len();
        let (blocks, after) = rest.split_at(BLOCKS_PER_FORMAT * format.block_bytes());
        let (values, after) = after.split_at(4 * len);
        rest = after;
        let mut got = vec![f32::NAN; len];
        dequantize(format, blocks, &mut got).unwrap();
        for (i, (got, want)) in got.iter().zip(values.as_chunks::<4>().0).enumerate() {
            assert_eq!(*got, f32::from_le_bytes(*want), "{format}, value {i}");
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn float_formats_read_and_write_exactly() {
    let values = [0.0, -0.0, 1.0, -2.5, 65504.0, 1.0 / 1024.0];
    for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16] {
        let want: Vec<f32> = match format {
            WeightFormat::BF16 => values
                .iter()
                .map(|value| bf16::from_f32(*value).to_f32())
                .collect(),
            _ => values.to_vec(),
        };
        assert_eq!(rounded(format, &values), want, "{format}");
    }
}

/// The squared error of `bytes` as a rounding of `values`.
fn squared_error(format: WeightFormat, values: &[f32], bytes: &[u8]) -> f64 {
    let mut got = vec![f32::NAN; values.len()];
    dequantize(format, bytes, &mut got).unwrap();
    values
        .iter()
        .zip(got)
        .map(|(value, got)| f64::from(value - got).powi(2))
        .sum()
}

#[test]
fn rounding_is_that_of_ggml() {
    let (values, mut rest) = QUANTIZED.split_at(4 * QUANTIZED_VALUES);
    let values: Vec<f32> = values
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| f32::from_le_bytes(*word))
        .collect();
    // The fixture is in the order of `ALL`.
    for format in writable().filter(|format| format.is_quantized()) {
        let (theirs, after) = rest.split_at(format.row_bytes(values.len()).unwrap());
        rest = after;
        let mut ours = vec![0xaa; theirs.len()];
        quantize(format, &values, &mut ours).unwrap();
        if format.block_len() == 32 {
            assert!(ours == theirs, "{format}: not the bytes of GGML");
        } else {
            // The searches add up in another order, so a tie may fall the other way; what counts is the error.
            let differ = ours
                .iter()
                .zip(theirs)
                .filter(|(ours, theirs)| ours != theirs)
                .count();
            let (our_error, their_error) = (
                squared_error(format, &values, &ours),
                squared_error(format, &values, theirs),
            );
            println!(
                "{format}: {differ} of {} bytes differ, squared error {our_error:.6} (GGML: {their_error:.6})",
                ours.len()
            );
            assert!(
                our_error <= their_error * 1.001,
                "{format}: {our_error} > {their_error}"
            );
            assert!(
                differ * 20 < ours.len(),
                "{format}: {differ} of {} bytes differ",
                ours.len()
            );
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn q8_0_rounds_halves_away_from_zero_as_ggml_does() {
    let mut values = [0.0; 32];
    values[..5].copy_from_slice(&[127.0, 2.5, -2.5, 3.5, -0.5]);
    assert_eq!(
        rounded(WeightFormat::Q8_0, &values)[..5],
        [127.0, 3.0, -3.0, 4.0, -1.0]
    );
}

#[test]
fn zeros_and_constants_survive() {
    for format in writable() {
        assert!(
            rounded(format, &[0.0; 256])
                .iter()
                .all(|value| *value == 0.0),
            "{format}"
        );
        for constant in [0.75, -0.75] {
            let worst = rounded(format, &[constant; 256])
                .iter()
                .map(|value| (value - constant).abs())
                .fold(0.0, f32::max);
            assert!(worst < 0.01, "{format}: {worst}");
        }
    }
}

#[test]
fn what_does_not_fit_is_a_typed_error() {
    let mut out = [0.0; 32];
    let length = KernelError::Length {
        op: "dequantize",
        name: "bytes",
        expected: 34,
        found: 33,
    };
    assert_eq!(
        dequantize(WeightFormat::Q8_0, &[0; 33], &mut out),
        Err(length)
    );
    let partial = KernelError::PartialBlock {
        format: WeightFormat::Q4K,
        columns: 32,
        block_len: 256,
    };
    assert_eq!(
        dequantize(WeightFormat::Q4K, &[0; 18], &mut out),
        Err(partial.clone())
    );
    assert_eq!(
        quantize(WeightFormat::Q4K, &out, &mut [0; 18]),
        Err(partial)
    );
    assert_eq!(
        quantize(WeightFormat::Iq4Xs, &[0.0; 256], &mut [0; 136]),
        Err(KernelError::CannotQuantize(WeightFormat::Iq4Xs))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Neither reading nor writing panics, whatever the bits.
    #[test]
    fn any_bits_are_accepted(bytes in proptest::collection::vec(any::<u8>(), 1024), values in proptest::collection::vec(any::<f32>(), 256)) {
        for format in WeightFormat::ALL.into_iter().chain(WeightFormat::CUDA_ONLY) {
            let mut out = [0.0; 256];
            dequantize(format, &bytes[..format.row_bytes(256).unwrap()], &mut out).unwrap();
            if can_quantize(format) {
                let mut written = vec![0; format.row_bytes(256).unwrap()];
                quantize(format, &values, &mut written).unwrap();
            }
        }
    }

    /// Writing what was read changes nothing where codes determine the values: the scale of Q8_0 is found again from its largest code.
    #[test]
    fn q8_0_is_stable(seed in any::<u64>()) {
        let once = rounded(WeightFormat::Q8_0, &random(256, seed));
        let twice = rounded(WeightFormat::Q8_0, &once);
        for (once, twice) in once.iter().zip(twice) {
            prop_assert!((once - twice).abs() <= 1e-3 * once.abs());
        }
    }
}

/// What an 8-bit float (OCP 8-bit Floating Point Specification 1.0, E4M3) stands for; no value for the two NaN.
fn e4m3(code: u8) -> Option<f32> {
    let (exponent, fraction) = (code >> 3 & 15, f32::from(code & 7) / 8.0);
    let size = match (exponent, code & 7) {
        (15, 7) => return None,
        (0, _) => fraction * 2f32.powi(-6),
        _ => (1.0 + fraction) * 2f32.powi(i32::from(exponent) - 7),
    };
    Some(if code & 0x80 == 0 { size } else { -size })
}

#[test]
fn eight_bit_floats_are_those_of_the_specification() {
    let numbers: Vec<f32> = (0..=255).filter_map(e4m3).collect();
    assert_eq!(numbers.len(), 254);
    // Both halves have the largest number, so that the scale is 1.
    for half in numbers.chunks(127) {
        let mut values = half.to_vec();
        values.push(448.0);
        assert_eq!(rounded(WeightFormat::Fp8, &values), values);

        let between: Vec<f32> = half
            .windows(2)
            .map(|pair| (pair[0] + pair[1]) / 2.0)
            .collect();
        let mut values = between.clone();
        values.resize(128, 448.0);
        for (i, (got, pair)) in rounded(WeightFormat::Fp8, &values)
            .iter()
            .zip(half.windows(2))
            .enumerate()
        {
            let even = if i % 2 == 0 { pair[0] } else { pair[1] };
            assert_eq!(*got, even, "between {} and {}", pair[0], pair[1]);
        }
    }
}

#[test]
fn formats_of_graphics_processors_round_as_well_as_their_bits_allow() {
    let values = random(64 * 128, 7);
    let signal: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    // Relative squared errors: 3 bits of fraction; 4 bits between the extremes of 128 values.
    for (format, limit) in [(WeightFormat::Fp8, 1e-3), (WeightFormat::Int4, 1.2e-2)] {
        let mut bytes = vec![0xaa; format.row_bytes(values.len()).unwrap()];
        quantize(format, &values, &mut bytes).unwrap();
        let error = squared_error(format, &values, &bytes) / signal;
        assert!((limit / 4.0..limit).contains(&error), "{format}: {error:e}");
        assert_eq!(rounded(format, &[0.0; 256]), [0.0; 256], "{format}");
    }
}
