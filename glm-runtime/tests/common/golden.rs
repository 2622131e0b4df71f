//! What other implementations computed, recorded in `golden.safetensors`.

use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

/// The recorded arrays of one checkpoint.
pub struct Golden {
    file: PathBuf,
    bytes: Vec<u8>,
}

impl Golden {
    /// The arrays of a file.
    pub fn open(file: PathBuf) -> Self {
        let bytes =
            std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self { file, bytes }
    }

    /// Whether there is an array of this name.
    pub fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes)
            .unwrap()
            .tensor(name)
            .is_ok()
    }

    fn words(&self, name: &str, dtype: Dtype) -> Vec<[u8; 4]> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors
            .tensor(name)
            .unwrap_or_else(|error| panic!("{} {name}: {error}", self.file.display()));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        tensor
            .data()
            .chunks_exact(4)
            .map(|word| word.try_into().unwrap())
            .collect()
    }

    /// An array of f32.
    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.words(name, Dtype::F32)
            .into_iter()
            .map(f32::from_le_bytes)
            .collect()
    }

    /// An array of ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.words(name, Dtype::I32)
            .into_iter()
            .map(u32::from_le_bytes)
            .collect()
    }

    /// The prompts with their numbers.
    pub fn prompts(&self) -> Vec<(usize, Vec<u32>)> {
        let name = |p| format!("p{p}.input_ids");
        (0..)
            .take_while(|&p| self.has(&name(p)))
            .map(|p| (p, self.ids(&name(p))))
            .collect()
    }
}

/// Panics unless all are within `tolerance` of what is wanted, relative to the largest magnitude wanted.
pub fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want
        .iter()
        .fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        // Not `<=` the other way round: NaN must fail.
        assert!(
            (got - want).abs() <= tolerance * largest,
            "{what}[{i}]: {got} for {want}, largest {largest}"
        );
    }
}

/// Length of the difference relative to the length of what is wanted.
pub fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let length = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    length(&mut got.iter().zip(want).map(|(g, w)| g - w)) / length(&mut want.iter().copied())
}

/// Panics unless each of `tokens` is the most likely one by the last of the `num_rows` rows of `logits`, or as good as that: models of noise may have two
/// tokens that are nearer to each other than a device's rounding. `tolerance` is relative to the largest magnitude of a row.
pub fn assert_nearly_greedy(
    what: &str,
    logits: &[f32],
    num_rows: usize,
    tokens: &[u32],
    tolerance: f32,
) {
    let rows = logits.chunks_exact(logits.len() / num_rows);
    for (row, token) in rows.skip(num_rows - tokens.len()).zip(tokens) {
        let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let best = row.iter().copied().fold(f32::MIN, f32::max);
        let chosen = row[*token as usize];
        assert!(
            best - chosen <= tolerance * largest,
            "{what}: token {token} has {chosen}, the best {best}, of {tokens:?}"
        );
    }
}
