//! The one rule for the format a tensor is held in.

use glm_core::DenseConfig;
use glm_kernels::WeightFormat;

use super::quantization::Quantization;
use super::source::TensorSpec;

/// The format that `spec` is held in, or written in, when the user asks for `quantize`.
///
/// - Vectors (norm gains, biases) are f32: they are small, and every activation passes through them.
/// - Without a request a matrix stays as it is stored, and so does one that is quantised already: quantising twice only
///   adds error.
/// - Otherwise every matrix takes the requested format, the embedding table and the `lm_head` included: with GLM's
///   vocabularies they are a tenth to a quarter of a small model, and the head is read for every token. `int4` and `fp8` leave
///   the two as they are ([`Quantization::leaves`]).
/// - Rows that do not divide into the format's blocks of 256 take the format with blocks of 32 that is one step better, as
///   llama.cpp has it (`down_proj` of GLM-4-9B has 13696 columns), and f16 where 32 does not divide them either.
pub(crate) fn format_for(
    spec: &TensorSpec,
    quantize: Option<Quantization>,
    config: &DenseConfig,
) -> WeightFormat {
    if spec.shape.len() < 2 {
        return WeightFormat::F32;
    }
    let Some(quantize) =
        quantize.filter(|quantize| !spec.format.is_quantized() && !quantize.leaves(&spec.name))
    else {
        return spec.format;
    };
    let wanted = quantize.format_of(&spec.name, config);
    let smaller_blocks = match wanted {
        WeightFormat::Int4 => WeightFormat::Q4_0,
        WeightFormat::Q4K => WeightFormat::Q5_0,
        WeightFormat::Q5K => WeightFormat::Q5_1,
        _ => WeightFormat::Q8_0,
    };
    [wanted, smaller_blocks]
        .into_iter()
        .find(|format| spec.columns().is_multiple_of(format.block_len()))
        .unwrap_or(WeightFormat::F16)
}

#[cfg(test)]
mod tests {
    use super::super::quantization::tests::config;
    use super::*;

    fn spec(shape: &[usize], format: WeightFormat) -> TensorSpec {
        TensorSpec {
            name: "t".to_owned(),
            shape: shape.to_vec(),
            format,
        }
    }

    fn format_of(
        shape: &[usize],
        stored: WeightFormat,
        quantize: Option<WeightFormat>,
    ) -> WeightFormat {
        let quantize = quantize.map(Quantization::Uniform);
        format_for(&spec(shape, stored), quantize, &config(8, false))
    }

    #[test]
    fn vectors_stay_f32_and_stored_blocks_stay_as_they_are() {
        use WeightFormat as W;
        assert_eq!(format_of(&[64], W::BF16, Some(W::Q8_0)), W::F32);
        assert_eq!(format_of(&[4, 256], W::Q6K, Some(W::Q4_0)), W::Q6K);
        assert_eq!(format_of(&[4, 256], W::BF16, None), W::BF16);
    }

    #[test]
    fn rows_that_do_not_divide_into_blocks_fall_back() {
        use WeightFormat as W;
        for (requested, columns, expected) in [
            (W::Q4K, 256, W::Q4K),
            (W::Q4K, 96, W::Q5_0),
            (W::Q5K, 13696, W::Q5_1),
            (W::Q6K, 96, W::Q8_0),
            (W::Q4K, 50, W::F16),
            (W::Q8_0, 50, W::F16),
            (W::Int4, 13696, W::Int4),
            (W::Int4, 96, W::Q4_0),
            (W::Fp8, 96, W::Q8_0),
        ] {
            let found = format_of(&[4, columns], W::BF16, Some(requested));
            assert_eq!(found, expected, "{requested}, {columns} columns");
        }
    }

    #[test]
    fn rows_fall_back_from_either_format_of_a_mix() {
        let format = |layer| {
            let spec = TensorSpec {
                name: format!("model.layers.{layer}.mlp.down_proj.weight"),
                ..spec(&[4, 13696], WeightFormat::BF16)
            };
            format_for(&spec, Some(Quantization::Q4KM), &config(40, false))
        };
        assert_eq!(format(0), WeightFormat::Q8_0);
        assert_eq!(format(6), WeightFormat::Q5_0);
    }
}
