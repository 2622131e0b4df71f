//! What can go wrong between a model argument and a usable checkpoint.

use std::path::{Path, PathBuf};

use crate::chat::TemplateError;
use crate::tensor::TensorType;
use crate::tokenizer::TokenizerError;

/// Why a checkpoint could not be opened, read or written.
///
/// Every message is one line, names the file and the thing in it, and says what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The operating system refused to open, map, read or write a file.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted: "open", "map", "write", ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The model argument is none of: a known name, an existing path, a hub id.
    #[error("no model `{model}`: {tried}; {hint}")]
    UnknownModel {
        /// The argument as given.
        model: String,
        /// What was looked for.
        tried: String,
        /// What would work.
        hint: String,
    },
    /// The path exists and is no checkpoint.
    #[error("{path} is not a checkpoint: {found}; {hint}", path = path.display())]
    NotACheckpoint {
        /// The file or directory.
        path: PathBuf,
        /// What is there instead.
        found: String,
        /// What would work.
        hint: String,
    },
    /// A hub id whose files are not in the cache, while downloads are switched off.
    #[error("{model} is not in the cache {cache} (missing {file}) and downloads are off: run once online, or give a directory", cache = cache.display())]
    NotCached {
        /// The hub id.
        model: String,
        /// First file that was looked for.
        file: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The hub did not deliver a file.
    #[error("cannot download {file} of {model} from {endpoint}: {reason}")]
    Download {
        /// The hub id.
        model: String,
        /// File in the repository.
        file: String,
        /// Address of the hub.
        endpoint: String,
        /// The transport's reason.
        reason: String,
    },
    /// The file ends before something its header announces.
    #[error("{file} is truncated: {what} needs bytes up to {expected}, the file has {found}", file = file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// The part that does not fit.
        what: String,
        /// Length the file would need, in bytes.
        expected: u64,
        /// Its length, in bytes.
        found: u64,
    },
    /// A field of a binary or JSON header has a value that cannot be right.
    #[error("{file}: {field} is {found}, expected {expected}", file = file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// The field, or the tensor and the field.
        field: String,
        /// What would be valid.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A JSON file does not parse.
    #[error("{file} is not valid JSON: {source}", file = file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Position and reason.
        source: serde_json::Error,
    },
    /// `model_type` or `general.architecture` is of no GLM model.
    #[error("{file}: architecture `{found}` is not supported (supported: {known})", file = file.display(), known = crate::config::SUPPORTED)]
    Architecture {
        /// The file that names it.
        file: PathBuf,
        /// The name found.
        found: String,
    },
    /// A member of the GLM family that this version does not run.
    #[error("{file}: {member} (`{found}`) is not supported yet (supported: {known})", file = file.display(), known = crate::config::SUPPORTED)]
    NotYet {
        /// The file that names it.
        file: PathBuf,
        /// The name found.
        found: String,
        /// The models that carry this name.
        member: &'static str,
    },
    /// The configuration lacks a field that has no default.
    #[error("{file}: `{field}` is missing", file = file.display())]
    MissingField {
        /// The file.
        file: PathBuf,
        /// The field's name in that file.
        field: String,
    },
    /// A field of the configuration has an absurd or contradictory value.
    #[error("{file}: `{field}` is {found}, expected {expected}", file = file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The field's name in that file.
        field: String,
        /// What would be valid.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A tensor's element type is not one that GLM files use.
    #[error("{file}: tensor `{tensor}` has the unknown type {found} (known: {known})", file = file.display(), known = TensorType::known_names())]
    TensorType {
        /// The file.
        file: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// The type's name or number in that file.
        found: String,
    },
    /// The configuration asks for a tensor that no file has.
    #[error("{file}: tensor `{tensor}` is missing, the config asks for it with shape {expected:?}", file = file.display())]
    MissingTensor {
        /// The checkpoint.
        file: PathBuf,
        /// Canonical name.
        tensor: String,
        /// Shape the config asks for; empty when only the name was asked for.
        expected: Vec<usize>,
    },
    /// Two tensors have the same name, in one file or in two, before or after renaming.
    #[error("tensor `{tensor}` is there twice: in {first} and in {second}", first = first.display(), second = second.display())]
    DuplicateTensor {
        /// Canonical name.
        tensor: String,
        /// Where it was first.
        first: PathBuf,
        /// Where it is again.
        second: PathBuf,
    },
    /// The file has a tensor that the configured model has no place for; without it the output would be wrong.
    #[error("{file}: tensor `{tensor}` of shape {found:?} has no place in a `{architecture}` model with this config", file = file.display())]
    UnexpectedTensor {
        /// The file.
        file: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The configured architecture.
        architecture: &'static str,
    },
    /// A tensor does not have the shape that the configuration asks for.
    #[error("{file}: tensor `{tensor}` has shape {found:?}, the config asks for {expected:?}", file = file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// Shape the config asks for.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// The checkpoint carries no tokenizer; it can still be run on token ids.
    #[error("{path} has no tokenizer (looked for {looked_for})", path = path.display())]
    NoTokenizer {
        /// The directory or file.
        path: PathBuf,
        /// What would hold one.
        looked_for: &'static str,
    },
    /// The directory holds no adapter in PEFT's layout.
    #[error("{path} is not a LoRA adapter: {found}; {hint}", path = path.display())]
    NotAnAdapter {
        /// The directory.
        path: PathBuf,
        /// What is there instead.
        found: String,
        /// What would work.
        hint: &'static str,
    },
    /// An adapter changes the model in a way that this version does not compute.
    #[error("{file}: {field} is {found}, and this version computes {expected}; merge the adapter into the model with PEFT's merge_and_unload instead", file = file.display())]
    AdapterNotSupported {
        /// The file that asks for it.
        file: PathBuf,
        /// The field or the tensor.
        field: String,
        /// What it says.
        found: String,
        /// What would work.
        expected: &'static str,
    },
    /// The tokenizer's files cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// What a caller can do about a [`LoadError`], for exit codes and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadErrorKind {
    /// The model argument names nothing usable.
    NotFound,
    /// A valid checkpoint that this version cannot run.
    Unsupported,
    /// A file contradicts itself or its configuration.
    Corrupt,
    /// The hub could not be reached or refused.
    Network,
    /// The operating system refused.
    Io,
}

impl LoadError {
    /// The coarse kind of this error.
    pub fn kind(&self) -> LoadErrorKind {
        match self {
            Self::UnknownModel { .. }
            | Self::NotACheckpoint { .. }
            | Self::NotAnAdapter { .. }
            | Self::NotCached { .. } => LoadErrorKind::NotFound,
            Self::Architecture { .. }
            | Self::NotYet { .. }
            | Self::TensorType { .. }
            | Self::AdapterNotSupported { .. } => LoadErrorKind::Unsupported,
            Self::Download { .. } => LoadErrorKind::Network,
            Self::Io { .. } => LoadErrorKind::Io,
            _ => LoadErrorKind::Corrupt,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
