//! Converts a checkpoint into a GGUF file that llama.cpp reads, matrices unchanged, norms and biases as f32: `cargo run -p glm-core --example to_gguf -- MODEL OUT.gguf`.
//! Without arguments it converts the demo into a temporary directory.

use glm_core::gguf::{self, TensorSpec, Writer};
use glm_core::{Checkpoint, LoadError, TensorInfo, TensorType};
use half::{bf16, f16};

fn main() -> Result<(), LoadError> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "demo".into());
    let output = arguments
        .next()
        .map_or_else(|| std::env::temp_dir().join("glm-demo.gguf"), Into::into);
    let checkpoint = Checkpoint::open(&model)?;
    let tokenizer = match checkpoint.tokenizer() {
        Ok(tokenizer) => Some(tokenizer),
        Err(LoadError::NoTokenizer { .. }) => None,
        Err(error) => return Err(error),
    };

    let mut metadata = checkpoint.config().to_gguf();
    let rows = checkpoint.config().dense().vocab_size;
    metadata.extend(gguf::tokenizer_metadata(tokenizer.as_ref(), rows));
    let specs = checkpoint.tensors().filter_map(|info| {
        let name = gguf::tensor_name(&info.name)?; // every tensor of a supported model has one
        Some(TensorSpec {
            name,
            shape: info.shape.clone(),
            ty: written_type(info),
        })
    });

    let mut writer = Writer::create(&output, &metadata, &specs.collect::<Vec<_>>())?;
    for info in checkpoint.tensors() {
        let bytes = checkpoint.tensor(&info.name)?.bytes;
        match (info.ty, written_type(info)) {
            (TensorType::BF16, TensorType::F32) => {
                writer.write(&widen(&bytes, |b| bf16::from_le_bytes(b).to_f32()))?
            }
            (TensorType::F16, TensorType::F32) => {
                writer.write(&widen(&bytes, |b| f16::from_le_bytes(b).to_f32()))?
            }
            _ => writer.write(&bytes)?,
        }
    }
    writer.finish()?;
    println!(
        "{} tensors of {} written to {}",
        checkpoint.tensors().count(),
        checkpoint.name(),
        output.display()
    );
    Ok(())
}

/// llama.cpp adds and multiplies vectors in f32 only.
fn written_type(info: &TensorInfo) -> TensorType {
    if info.shape.len() == 1 {
        TensorType::F32
    } else {
        info.ty
    }
}

fn widen(bytes: &[u8], decode: impl Fn([u8; 2]) -> f32) -> Vec<u8> {
    bytes
        .as_chunks::<2>()
        .0
        .iter()
        .flat_map(|chunk| decode(*chunk).to_le_bytes())
        .collect()
}
