//! `out[t, :] = table[ids[t], :]`, whatever format the table is stored in. Widening a row is the
//! weight format's own work (`Weight::dequantize_row`).

use std::sync::OnceLock;

use crate::linear::cuda_rows;
use crate::{DType, Indices, KernelError, Tensor, Weight, Work};

const OP: &str = "embed";

/// Rows `ids` of `table` (`[V, C]`, any format) as f32: `[T, C]`.
///
/// # Errors
/// [`KernelError::Index`] for an id that the table does not have.
pub fn embed(table: &Weight, ids: &Indices) -> Result<Tensor, KernelError> {
    let (vocab_size, hidden_size) = (table.out_features(), table.in_features());
    ids.check_below(OP, "token id", vocab_size)?;
    if let Some(cuda) = table.device().as_cuda() {
        return cuda_rows(cuda, table, ids);
    }
    let _span = table.device().record(|| {
        let row = table.byte_len() / vocab_size + hidden_size * size_of::<f32>();
        Work::moving(OP, ids.len() * row)
    });
    let mut out = Tensor::empty(table.device(), DType::F32, &[ids.len(), hidden_size])?;
    let failure = OnceLock::new();
    table
        .device()
        .pool()
        .for_each_rows(out.as_f32_mut()?, hidden_size, |range, out| {
            for (id, out) in ids[range].iter().zip(out.chunks_exact_mut(hidden_size)) {
                if let Err(error) = table.dequantize_row(*id as usize, out) {
                    failure.get_or_init(|| error);
                }
            }
        });
    failure.into_inner().map_or(Ok(out), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, devices};
    use crate::{WeightBuilder, WeightFormat};

    #[test]
    fn each_token_gets_its_row() {
        let (vocab_size, hidden_size) = (11, 96);
        let values = Random::new(1).values(vocab_size * hidden_size);
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        for device in devices(2) {
            let mut builder = WeightBuilder::new(&device, hidden_size);
            builder
                .push_rows(WeightFormat::F32, vocab_size, &bytes)
                .unwrap();
            let table = builder.finish().unwrap();
            for tokens in [0, 1, 7, 500] {
                let ids: Vec<u32> = (0..tokens).map(|t| (t * 5 % vocab_size) as u32).collect();
                let got = embed(&table, &ids.clone().into()).unwrap();
                let want: Vec<f32> = ids
                    .iter()
                    .flat_map(|id| &values[*id as usize * hidden_size..][..hidden_size])
                    .copied()
                    .collect();
                assert_eq!(got.shape(), [tokens, hidden_size]);
                assert_eq!(got.to_f32_vec().unwrap(), want);
            }
            let error = embed(&table, &[0, 11].into()).unwrap_err();
            assert_eq!(
                error,
                KernelError::Index {
                    op: OP,
                    name: "token id",
                    index: 11,
                    len: 11
                }
            );
        }
    }
}
