//! Data for the GLM runtime; no code that computes.
//!
//! - [`demo`]: a small checkpoint embedded in the binary (feature `demo`), so that a program answers without a download.
//! - [`PRESETS`]: the configurations of published models, for weights drawn at random at their true sizes.
//! - [`KNOWN_CHECKPOINTS`]: which published checkpoints there are, and which of them the engine runs.
//!
//! ```
//! let preset = glm_models::preset("glm-edge-1.5b").expect("listed in PRESETS");
//! assert!(preset.config_json.contains("\"hidden_size\": 2048"));
//! ```
#![forbid(unsafe_code)]

mod presets;
mod registry;

pub use presets::{PRESETS, Preset, preset};
pub use registry::{KNOWN_CHECKPOINTS, KnownCheckpoint, known_checkpoint};

/// One file of an embedded checkpoint, named as in a Hugging Face directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddedFile {
    /// File name, for example `config.json`.
    pub name: &'static str,
    /// The whole file.
    pub bytes: &'static [u8],
}

/// The demo checkpoint, or `None` without the feature `demo`.
///
/// The files are `config.json`, `generation_config.json`, `tokenizer.json`, `tokenizer_config.json`,
/// `chat_template.jinja` and `model.safetensors`. A `glm_demo_note` in its `config.json` says what a user must know
/// about its answers: that it is a toy.
#[must_use]
pub fn demo() -> Option<&'static [EmbeddedFile]> {
    #[cfg(feature = "demo")]
    return Some(DEMO);
    #[cfg(not(feature = "demo"))]
    None
}

#[cfg(feature = "demo")]
macro_rules! embedded {
    ($($name:literal),+ $(,)?) => {
        &[$(EmbeddedFile { name: $name, bytes: include_bytes!(concat!("../demo/", $name)) }),+]
    };
}

#[cfg(feature = "demo")]
static DEMO: &[EmbeddedFile] = embedded!(
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
);
