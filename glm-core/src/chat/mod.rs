//! Chat formats.

/// The prompt format of a checkpoint.
#[derive(Debug, Clone)]
pub struct ChatFormat;

/// Why a chat could not be rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {}
