//! Renaming a source's tensors and checking them against its configuration.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{Checkpoint, Format, Inner, Parts};
use crate::error::LoadError;
use crate::names::{Mapped, Projections, Scheme, expected_tensors};
use crate::tensor::{RawTensor, TensorInfo, TensorType};

/// Turns a source's parts into a checkpoint whose tensors are exactly those that the configuration asks for.
pub(super) fn assemble(parts: Parts) -> Result<Checkpoint, LoadError> {
    let mut table = Table::default();
    let scheme = scheme(&parts);
    for raw in &parts.tensors {
        let file = parts.files[raw.file].path();
        match scheme.canonical(&raw.name) {
            Mapped::Ignored => {}
            // Tied checkpoints may repeat the embedding as output layer; transformers takes the embedding then.
            Mapped::Canonical(name)
                if name == "lm_head.weight" && parts.config.dense().tie_word_embeddings => {}
            Mapped::Canonical(name) => table.insert(name, raw, file)?,
            Mapped::Unknown => return Err(unexpected(&parts, raw, file)),
        }
    }
    check(&parts, &table)?;
    Ok(Checkpoint(Arc::new(Inner {
        name: parts.name,
        path: parts.path,
        embedded: parts.embedded,
        format: parts.format,
        config: parts.config,
        generation: parts.generation,
        note: parts.note,
        warnings: parts.warnings,
        files: parts.files,
        tensors: table.tensors,
        places: table.places,
        by_name: table.by_name,
        side: parts.side,
    })))
}

fn scheme(parts: &Parts) -> Scheme {
    if parts.format == Format::Gguf {
        Scheme::Gguf
    } else if parts
        .tensors
        .iter()
        .any(|raw| raw.name.starts_with("transformer."))
    {
        Scheme::ChatGlm
    } else {
        Scheme::Transformers
    }
}

#[derive(Default)]
struct Table {
    tensors: Vec<TensorInfo>,
    places: Vec<(usize, u64)>,
    by_name: HashMap<String, usize>,
}

impl Table {
    fn insert(&mut self, name: String, raw: &RawTensor, file: &Path) -> Result<(), LoadError> {
        let ty = raw.ty.clone().map_err(|found| LoadError::TensorType {
            file: file.to_path_buf(),
            tensor: raw.name.clone(),
            found,
        })?;
        if let Some(&index) = self.by_name.get(&name) {
            let first = self.tensors[index].file.clone();
            return Err(LoadError::DuplicateTensor {
                tensor: name,
                first,
                second: file.to_path_buf(),
            });
        }
        self.by_name.insert(name.clone(), self.tensors.len());
        self.places.push((raw.file, raw.offset));
        self.tensors.push(TensorInfo {
            name,
            source_name: raw.name.clone(),
            shape: raw.shape.clone(),
            ty,
            file: file.to_path_buf(),
            bytes: raw.bytes,
        });
        Ok(())
    }

    fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }
}

/// Every expected tensor is there with its shape, and nothing else is.
fn check(parts: &Parts, table: &Table) -> Result<(), LoadError> {
    check_size(parts, table)?;
    let projections = |layer: usize| {
        if table.contains(&format!("model.layers.{layer}.self_attn.qkv_proj.weight")) {
            Projections::Fused
        } else {
            Projections::Split
        }
    };
    let expected = expected_tensors(&parts.config, projections);
    let mut is_expected = vec![false; table.tensors.len()];
    for (name, shape) in expected {
        let Some(&index) = table.by_name.get(&name) else {
            return Err(LoadError::MissingTensor {
                file: parts.path.clone(),
                tensor: name,
                expected: shape,
            });
        };
        is_expected[index] = true;
        check_tensor(&table.tensors[index], shape)?;
    }
    match is_expected.iter().position(|expected| !expected) {
        Some(index) => {
            let info = &table.tensors[index];
            Err(LoadError::UnexpectedTensor {
                file: info.file.clone(),
                tensor: info.source_name.clone(),
                found: info.shape.clone(),
                architecture: parts.config.architecture(),
            })
        }
        None => Ok(()),
    }
}

/// A configuration of many more layers than there are tensors must not cost memory for the list of what is missing.
fn check_size(parts: &Parts, table: &Table) -> Result<(), LoadError> {
    let layers = parts.config.dense().num_hidden_layers;
    let last = layers.saturating_sub(1);
    let name = format!("model.layers.{last}.input_layernorm.weight");
    if layers > table.tensors.len() && !table.contains(&name) {
        let expected = vec![parts.config.dense().hidden_size];
        return Err(LoadError::MissingTensor {
            file: parts.path.clone(),
            tensor: name,
            expected,
        });
    }
    Ok(())
}

fn check_tensor(info: &TensorInfo, shape: Vec<usize>) -> Result<(), LoadError> {
    if info.shape != shape {
        return Err(LoadError::Shape {
            file: info.file.clone(),
            tensor: info.source_name.clone(),
            expected: shape,
            found: info.shape.clone(),
        });
    }
    let is_float = matches!(
        info.ty,
        TensorType::F32 | TensorType::F16 | TensorType::BF16
    );
    if shape.len() == 1 && !is_float {
        return Err(LoadError::Header {
            file: info.file.clone(),
            field: format!("type of tensor `{}`", info.source_name),
            expected: "f32, f16 or bf16, as norms and biases are not quantised".into(),
            found: info.ty.name().into(),
        });
    }
    Ok(())
}

fn unexpected(parts: &Parts, raw: &RawTensor, file: &Path) -> LoadError {
    LoadError::UnexpectedTensor {
        file: file.to_path_buf(),
        tensor: raw.name.clone(),
        found: raw.shape.clone(),
        architecture: parts.config.architecture(),
    }
}
