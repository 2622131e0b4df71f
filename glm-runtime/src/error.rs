//! Errors: [`BuildError`] while an engine is built, [`EngineError`] for one request.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use glm_core::{LoadError, TemplateError, TokenizerError};
use glm_kernels::KernelError;

use crate::beam::BeamError;
use crate::guide::GrammarError;
use crate::kv::file::PrefixCacheError;
use crate::lora::{AdapterError, UnknownAdapter};
use crate::memory::MemoryShortage;
use crate::sampling::{InvalidSampling, NotFinite};

/// Why an engine could not be built from a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The checkpoint could not be opened or read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A kernel refused the weights or the device is not there.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The weights and the KV cache do not fit into the free memory.
    #[error(transparent)]
    Memory(#[from] MemoryShortage),
    /// A LoRA adapter could not be loaded.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The file of the prefix cache is another kind of file, or cannot be read.
    #[error(transparent)]
    PrefixCache(#[from] PrefixCacheError),
    /// `random:NAME` with a name that is not a preset.
    #[error("`random:{name}` is not a preset; presets: {known}")]
    UnknownPreset {
        /// What was asked for.
        name: String,
        /// All preset names, separated by commas.
        known: String,
    },
    /// The format cannot be produced by quantising.
    #[error("cannot quantise to `{format}`; possible: {possible}")]
    CannotQuantize {
        /// The format asked for.
        format: String,
        /// All formats that can be produced, separated by commas.
        possible: String,
    },
    /// A checkpoint asks for something that this version does not compute.
    #[error("{what} {found} is not supported")]
    NotSupported {
        /// Kind of thing.
        what: &'static str,
        /// What the checkpoint asks for.
        found: String,
    },
    /// A tensor's type has no kernel.
    #[error("{file}: tensor `{tensor}` has type {format}, for which there is no kernel")]
    TensorFormat {
        /// The file it is in.
        file: PathBuf,
        /// Canonical tensor name.
        tensor: String,
        /// Name of the type.
        format: String,
    },
    /// A `random:` model has no tensor of this name.
    #[error("{model}: no tensor `{tensor}`")]
    MissingTensor {
        /// Model name.
        model: String,
        /// Canonical tensor name.
        tensor: String,
    },
    /// A draft model that does not speak the model's language.
    #[error(
        "{draft} cannot guess for {model}: the vocabularies differ ({difference}); a draft model needs the same tokenizer"
    )]
    DraftVocabulary {
        /// Name of the draft model.
        draft: String,
        /// Name of the model.
        model: String,
        /// The first difference, in words.
        difference: String,
    },
    /// `max_model_len` is outside what the model was made for.
    #[error(
        "max-model-len {asked} is outside 1 to {max}, the context this checkpoint was made for"
    )]
    MaxModelLen {
        /// The length asked for, in tokens.
        asked: usize,
        /// The longest context of the config.
        max: usize,
    },
    /// The caller wants text in or out, and the model came without a tokenizer.
    #[error("{model} has no tokenizer: give token ids instead of text")]
    NoTokenizer {
        /// Model name.
        model: String,
    },
    /// An engine option is out of range.
    #[error("{option} must be {allowed}, found {found}")]
    Option {
        /// Name of the builder method.
        option: &'static str,
        /// The allowed range in words.
        allowed: &'static str,
        /// The value given.
        found: String,
    },
    /// `--device` is not the name of a kind of device.
    #[error("expected the device auto, cpu, cuda or cuda:N, found `{0}`")]
    Device(String),
    /// The operating system refused the engine thread.
    #[error("cannot start the engine thread")]
    Thread(#[source] std::io::Error),
}

/// Why a request was refused or ended without an answer. Cheap to clone: one failure can end many requests.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A sampling parameter is out of its range.
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
    /// The prompt has no token: there is nothing to continue.
    #[error("the prompt is empty: give at least one token")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt_tokens} tokens, but the context holds {max_model_len} tokens including the answer; shorten it or raise --max-model-len"
    )]
    ContextLength {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// Context size in tokens.
        max_model_len: usize,
    },
    /// A token id that the model does not have.
    #[error("token id {id} is outside the vocabulary of {vocab_size} tokens")]
    TokenId {
        /// The id given.
        id: u32,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
    /// `max_tokens: 0` asks for nothing.
    #[error("max_tokens must be at least 1")]
    MaxTokens,
    /// More tokens at least than at most.
    #[error("min_tokens is {min_tokens}, more than max_tokens, {max_tokens}")]
    MinTokens {
        /// Fewest tokens asked for.
        min_tokens: usize,
        /// Most tokens asked for.
        max_tokens: usize,
    },
    /// A stop string that matches everywhere.
    #[error("a stop string must not be empty")]
    EmptyStop,
    /// The model came without a tokenizer: only token ids can go in and out.
    #[error("{model} has no tokenizer: use token ids and no stop strings")]
    NoTokenizer {
        /// Model name.
        model: String,
    },
    /// The prompt could not be tokenised.
    #[error(transparent)]
    Tokenizer(Arc<TokenizerError>),
    /// The chat template refused the messages.
    #[error(transparent)]
    Template(Arc<TemplateError>),
    /// The forward pass failed.
    #[error("the forward pass failed: {0}")]
    Step(Arc<KernelError>),
    /// The grammar that the answer must follow cannot be used, or could not be followed.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// A beam search cannot be done as it is asked for.
    #[error(transparent)]
    Beam(#[from] BeamError),
    /// The request names a LoRA adapter that is not there.
    #[error(transparent)]
    Adapter(#[from] UnknownAdapter),
    /// The model computed something that is not a number, so nothing can be sampled.
    #[error("the model's logits are not finite: the weights are damaged or overflow")]
    NotFinite,
    /// The priority is out of its range.
    #[error("priority must be between {min} and {max}, found {0}", min = -crate::request::MAX_PRIORITY, max = crate::request::MAX_PRIORITY)]
    Priority(i32),
    /// The time that the request may take was over before its answer was complete.
    #[error(
        "the request was not done within its timeout of {timeout:?} ({completion_tokens} tokens were generated); allow more time or try when fewer requests run"
    )]
    TimedOut {
        /// What the request allowed, from submission on.
        timeout: Duration,
        /// Tokens generated until then.
        completion_tokens: usize,
    },
    /// As many requests as the engine takes are waiting.
    #[error(
        "the queue is full: {waiting} requests with {waiting_tokens} tokens are waiting; try again later, or raise max_waiting and max_waiting_tokens"
    )]
    QueueFull {
        /// Requests waiting.
        waiting: usize,
        /// Their tokens.
        waiting_tokens: usize,
    },
    /// Running requests hold the blocks that scoring needs.
    #[error("the KV cache is in use: wait until fewer requests run")]
    KvCacheFull,
    /// The engine is draining: it finishes what it has and takes nothing new.
    #[error("the engine is draining and takes no new requests")]
    Draining,
    /// The engine thread has ended.
    #[error("the engine has stopped")]
    Stopped,
    /// The engine thread panicked; the message is the panic's.
    #[error("the engine thread panicked: {0}")]
    Panicked(Arc<str>),
}

/// Coarse class of an [`EngineError`], for callers that only route: a status code, retry or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is wrong; the same request will fail again.
    InvalidRequest,
    /// The prompt is longer than the context.
    ContextLength,
    /// The engine takes no requests now; another one might.
    Unavailable,
    /// Too many requests at once; the same one may succeed later.
    Overloaded,
    /// The request ran out of the time it allowed.
    Timeout,
    /// The engine failed at a request it should have served.
    Internal,
}

impl EngineError {
    /// The coarse class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ContextLength { .. } => ErrorKind::ContextLength,
            Self::Draining | Self::Stopped | Self::KvCacheFull => ErrorKind::Unavailable,
            Self::QueueFull { .. } => ErrorKind::Overloaded,
            Self::TimedOut { .. } => ErrorKind::Timeout,
            Self::Step(_) | Self::NotFinite | Self::Panicked(_) => ErrorKind::Internal,
            _ => ErrorKind::InvalidRequest,
        }
    }
}

impl From<TokenizerError> for EngineError {
    fn from(error: TokenizerError) -> Self {
        Self::Tokenizer(Arc::new(error))
    }
}

impl From<TemplateError> for EngineError {
    fn from(error: TemplateError) -> Self {
        Self::Template(Arc::new(error))
    }
}

impl From<NotFinite> for EngineError {
    fn from(NotFinite: NotFinite) -> Self {
        Self::NotFinite
    }
}

impl From<KernelError> for EngineError {
    fn from(error: KernelError) -> Self {
        Self::Step(Arc::new(error))
    }
}
