//! The generations of the family, as far as prompts differ.

use std::fmt;

use super::CallFormat;

/// Which prompt format a checkpoint was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Generation {
    /// ChatGLM2-6B, CodeGeeX2: numbered rounds of plain text.
    ChatGlm2,
    /// ChatGLM3-6B: role tokens, put together token by token.
    ChatGlm3,
    /// GLM-4-9B and its relatives.
    Glm4,
    /// GLM-Edge.
    GlmEdge,
    /// GLM-4-0414.
    Glm4_0414,
    /// GLM-Z1: every answer begins inside a think block.
    GlmZ1,
    /// GLM-4.1V and AutoGLM-Phone: images among the text.
    Glm4v,
    /// GLM-4.5 and 4.6: a think block that the model opens itself, `/nothink`.
    Glm45,
    /// GLM-4.7, GLM-5, GLM-5.1: no newlines after role markers, the prompt opens the think block.
    Glm47,
    /// GLM-5.2 and later: as 4.7, with a line for the reasoning effort.
    Glm52,
}

/// What is known of a checkpoint when its generation has to be told.
#[derive(Debug, Clone, Copy, Default)]
pub struct GenerationHints<'a> {
    /// `model_type` of `config.json` or `general.architecture` of a GGUF: `chatglm`, `glm`, `glm4`, ...
    pub architecture: &'a str,
    /// What the checkpoint is called: hub id, directory or `general.name`.
    pub name: &'a str,
    /// Whether the vocabulary is sentencepiece.
    pub sentencepiece: bool,
    /// The checkpoint's own template.
    pub template: Option<&'a str>,
}

impl Generation {
    /// Tells the generation: from the template if there is one, else from architecture, vocabulary and name.
    ///
    /// ```
    /// use glm_core::chat::{Generation, GenerationHints};
    /// let hints = GenerationHints { architecture: "glm4", name: "zai-org/GLM-Z1-9B-0414", ..Default::default() };
    /// assert_eq!(Generation::detect(hints), Generation::GlmZ1);
    /// ```
    pub fn detect(hints: GenerationHints<'_>) -> Self {
        let name = hints.name.to_ascii_lowercase();
        if hints.sentencepiece {
            let is_second = name.contains("chatglm2") || name.contains("codegeex2");
            return if is_second {
                Self::ChatGlm2
            } else {
                Self::ChatGlm3
            };
        }
        let template = hints.template.unwrap_or_default();
        let has = |text: &str| template.contains(text);
        match hints.architecture {
            _ if has("Reasoning Effort") => Self::Glm52,
            _ if has("<arg_key>") && has("/nothink") => Self::Glm45,
            _ if has("<arg_key>") => Self::Glm47,
            _ if has("<|begin_of_image|>") => Self::Glm4v,
            _ if has("<think>") => Self::GlmZ1,
            "glm4" if template.is_empty() && name.contains("z1") => Self::GlmZ1,
            "glm4" => Self::Glm4_0414,
            _ if name.contains("edge") => Self::GlmEdge,
            _ => Self::Glm4,
        }
    }

    /// Texts of the tokens that end an answer, whatever the configuration says.
    pub fn stop_tokens(self) -> &'static [&'static str] {
        match self {
            Self::ChatGlm2 => &["</s>"],
            Self::ChatGlm3 => &["</s>", "<|user|>", "<|observation|>"],
            _ => &["<|endoftext|>", "<|user|>", "<|observation|>"],
        }
    }

    /// How tools are called; `None` if they are not.
    pub fn call_format(self) -> Option<CallFormat> {
        match self {
            Self::ChatGlm2 => None,
            Self::ChatGlm3 => Some(CallFormat::Python),
            Self::Glm4 | Self::GlmEdge | Self::Glm4_0414 | Self::GlmZ1 | Self::Glm4v => {
                Some(CallFormat::Json)
            }
            Self::Glm45 => Some(CallFormat::Tagged { lines: true }),
            Self::Glm47 | Self::Glm52 => Some(CallFormat::Tagged { lines: false }),
        }
    }

    /// Whether answers hold a think block.
    pub fn thinks(self) -> bool {
        matches!(
            self,
            Self::GlmZ1 | Self::Glm4v | Self::Glm45 | Self::Glm47 | Self::Glm52
        )
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChatGlm2 => "ChatGLM2",
            Self::ChatGlm3 => "ChatGLM3",
            Self::Glm4 => "GLM-4",
            Self::GlmEdge => "GLM-Edge",
            Self::Glm4_0414 => "GLM-4-0414",
            Self::GlmZ1 => "GLM-Z1",
            Self::Glm4v => "GLM-4.1V",
            Self::Glm45 => "GLM-4.5",
            Self::Glm47 => "GLM-4.7",
            Self::Glm52 => "GLM-5.2",
        })
    }
}
