//! A Hugging Face directory, or the embedded one: `config.json`, weights, and the small files beside them.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glm_models::EmbeddedFile;

use super::index::parse_index;
use super::{Format, Parts, SideFiles};
use crate::config::{GenerationConfig, ModelConfig, stop_tokens_from_json};
use crate::error::LoadError;
use crate::source::{SourceFile, read_text_if_present};
use crate::tensor::RawTensor;
use crate::{pytorch, safetensors};

/// Far above any real one: a 400-layer index is below 2 MB.
const MAX_JSON_BYTES: u64 = 64 << 20;

const CONFIG: &str = "config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// Weight files of a directory: the index, if any, and the files that hold tensors.
#[derive(Debug, PartialEq)]
pub(super) struct Weights {
    pub(super) format: Format,
    /// Tensors that each file must hold; an unsharded checkpoint promises none.
    pub(super) files: BTreeMap<String, Vec<String>>,
}

/// Opens a directory under a name.
pub(super) fn open(directory: &Path, name: String) -> Result<Parts, LoadError> {
    let config_path = directory.join(CONFIG);
    let Some(config_text) = read_text_if_present(&config_path, MAX_JSON_BYTES)? else {
        return Err(no_config(directory)?);
    };
    let generation_path = directory.join(GENERATION_CONFIG);
    let generation_text = read_text_if_present(&generation_path, MAX_JSON_BYTES)?;
    let texts = Texts::parse(
        &config_text,
        &config_path,
        generation_text.as_deref(),
        &generation_path,
    )?;
    let Some(weights) = find_weights(directory)? else {
        return Err(LoadError::NotACheckpoint {
            path: directory.to_path_buf(),
            found: "it has config.json and no weights".into(),
            hint: "it needs model.safetensors, model.safetensors.index.json with its shards, or pytorch_model.bin".into(),
        });
    };
    let mut opened = OpenedWeights::new(weights.format);
    for (shard, promised) in &weights.files {
        opened.add(SourceFile::open(&directory.join(shard))?, promised)?;
    }
    let path = directory.to_path_buf();
    let side = SideFiles::Directory(path.clone());
    Ok(texts.into_parts(
        Place {
            name,
            path,
            embedded: false,
        },
        opened,
        side,
    ))
}

/// Opens the files embedded in the program.
pub(super) fn open_embedded(
    name: &str,
    embedded: &'static [EmbeddedFile],
) -> Result<Parts, LoadError> {
    let path = PathBuf::from(format!("{name} (embedded)"));
    let text = |file: &str| {
        embedded
            .iter()
            .find(|e| e.name == file)
            .map(|e| String::from_utf8_lossy(e.bytes))
    };
    let Some(config) = text(CONFIG) else {
        return Err(no_config(&path)?);
    };
    let texts = Texts::parse(
        &config,
        &path.join(CONFIG),
        text(GENERATION_CONFIG).as_deref(),
        &path.join(GENERATION_CONFIG),
    )?;
    let mut opened = OpenedWeights::new(Format::Safetensors);
    for weights in embedded.iter().filter(|e| e.name.ends_with(".safetensors")) {
        opened.add(
            SourceFile::embedded(path.join(weights.name), weights.bytes),
            &[],
        )?;
    }
    let place = Place {
        name: name.to_owned(),
        path,
        embedded: true,
    };
    Ok(texts.into_parts(place, opened, SideFiles::Embedded(embedded)))
}

/// What the JSON files say.
struct Texts {
    config: ModelConfig,
    generation: GenerationConfig,
    note: Option<String>,
    warnings: Vec<String>,
}

impl Texts {
    fn parse(
        config: &str,
        config_path: &Path,
        generation: Option<&str>,
        generation_path: &Path,
    ) -> Result<Self, LoadError> {
        let fields: serde_json::Value =
            serde_json::from_str(config).map_err(|source| LoadError::Json {
                file: config_path.to_path_buf(),
                source,
            })?;
        let config = ModelConfig::from_json(config, config_path)?;
        let generation = match generation {
            Some(text) => GenerationConfig::from_json(text, generation_path)?,
            None => GenerationConfig::default(),
        };
        let note = fields
            .get("glm_demo_note")
            .and_then(|note| note.as_str())
            .map(str::to_owned);
        let warnings = warnings(&config, config_path);
        Ok(Self {
            generation: stop_tokens_from_json(generation, &config),
            config,
            note,
            warnings,
        })
    }

    fn into_parts(self, place: Place, weights: OpenedWeights, side: SideFiles) -> Parts {
        Parts {
            name: place.name,
            path: place.path,
            embedded: place.embedded,
            format: weights.format,
            config: self.config,
            generation: self.generation,
            note: self.note,
            warnings: self.warnings,
            files: weights.files,
            tensors: weights.tensors,
            side,
        }
    }
}

/// What the checkpoint is called and where it is.
struct Place {
    name: String,
    path: PathBuf,
    embedded: bool,
}

/// Weight files with their headers read.
struct OpenedWeights {
    format: Format,
    files: Vec<Arc<SourceFile>>,
    tensors: Vec<RawTensor>,
}

impl OpenedWeights {
    fn new(format: Format) -> Self {
        Self {
            format,
            files: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// Adds a file, which must hold the promised tensors.
    fn add(&mut self, file: SourceFile, promised: &[String]) -> Result<(), LoadError> {
        let listed = match self.format {
            Format::PyTorch => pytorch::read_header(&file, self.files.len())?,
            _ => safetensors::read_header(&file, self.files.len())?,
        };
        check_promised(&file, promised, &listed)?;
        self.tensors.extend(listed);
        self.files.push(Arc::new(file));
        Ok(())
    }
}

/// GLM-4-9B-Chat was trained with base 5e6; public copies of its converted configuration say 10000.
fn warnings(config: &ModelConfig, file: &Path) -> Vec<String> {
    let dense = config.dense();
    let doubtful = matches!(config, ModelConfig::Glm(_))
        && dense.max_position_embeddings >= 131_072
        && dense.rope_theta == 10_000.0;
    let text = || {
        format!(
            "{}: rope_theta is 10000 for a context of {} tokens; GLM-4-9B-Chat was trained with 5000000, so answers may be wrong",
            file.display(),
            dense.max_position_embeddings
        )
    };
    doubtful.then(text).into_iter().collect()
}

/// The weight files of a directory: safetensors before PyTorch, an index before a single file.
pub(super) fn find_weights(directory: &Path) -> Result<Option<Weights>, LoadError> {
    let formats = [
        (
            Format::Safetensors,
            "model.safetensors.index.json",
            "model.safetensors",
        ),
        (
            Format::PyTorch,
            "pytorch_model.bin.index.json",
            "pytorch_model.bin",
        ),
    ];
    for (format, index, single) in formats {
        let index_path = directory.join(index);
        if let Some(text) = read_text_if_present(&index_path, MAX_JSON_BYTES)? {
            return Ok(Some(Weights {
                format,
                files: parse_index(&text, &index_path)?,
            }));
        }
        let files = weight_files(directory, format)?;
        let only = match files.as_slice() {
            [] => continue,
            [only] => only.clone(),
            several if several.iter().any(|name| name == single) => single.to_owned(),
            several => {
                return Err(LoadError::NotACheckpoint {
                    path: directory.to_path_buf(),
                    found: format!(
                        "it has {} weight files ({}, …) and no {index}",
                        several.len(),
                        several[0]
                    ),
                    hint: format!("add the index, or keep one file named {single}"),
                });
            }
        };
        return Ok(Some(Weights {
            format,
            files: BTreeMap::from([(only, Vec::new())]),
        }));
    }
    Ok(None)
}

/// Names of files that hold weights in a format, sorted. What a training run leaves beside them is left out.
fn weight_files(directory: &Path, format: Format) -> Result<Vec<String>, LoadError> {
    const NOT_WEIGHTS: [&str; 5] = [
        "training_args.bin",
        "optimizer.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
    ];
    let extensions: &[&str] = match format {
        Format::Safetensors => &["safetensors"],
        Format::PyTorch => &["bin", "pt", "pth"],
        Format::Gguf => &["gguf"],
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(LoadError::io("list", directory))? {
        let name = entry
            .map_err(LoadError::io("list", directory))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        let extension = Path::new(&name)
            .extension()
            .and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| extensions.contains(&extension))
            && !NOT_WEIGHTS.contains(&name.as_str())
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Every tensor that the index places in this shard is there.
fn check_promised(
    file: &SourceFile,
    promised: &[String],
    listed: &[RawTensor],
) -> Result<(), LoadError> {
    let names = listed
        .iter()
        .map(|raw| raw.name.as_str())
        .collect::<HashSet<_>>();
    match promised.iter().find(|name| !names.contains(name.as_str())) {
        Some(name) => Err(LoadError::Header {
            file: file.path().to_path_buf(),
            field: format!("tensor `{name}`"),
            expected: "in this shard, as the index says".into(),
            found: "not there".into(),
        }),
        None => Ok(()),
    }
}

/// The error for a directory without `config.json`, with what would work instead.
fn no_config(directory: &Path) -> Result<LoadError, LoadError> {
    let gguf = if directory.is_dir() {
        weight_files(directory, Format::Gguf)?
    } else {
        Vec::new()
    };
    let hint = match gguf.first() {
        Some(first) => format!(
            "it holds GGUF files: give {}",
            directory.join(first).display()
        ),
        None => "give the directory that holds config.json and the weights".into(),
    };
    Ok(LoadError::NotACheckpoint {
        path: directory.to_path_buf(),
        found: "it has no config.json".into(),
        hint,
    })
}
