//! Which members of the GLM family there are, under which names, and which of them this crate reads.

use std::path::Path;

use crate::error::LoadError;

/// The `model_type`s and GGUF architectures that this crate reads.
pub(crate) const SUPPORTED: &str =
    "chatglm (ChatGLM2/3, GLM-4-9B), glm (GLM-4-9B-hf, GLM-Edge), glm4 (GLM-4-0414, GLM-Z1)";

/// `model_type` in `config.json`, or `general.architecture` in GGUF, and the models that carry it.
const NOT_YET: [(&str, &str); 17] = [
    ("glm4_moe", "GLM-4.5, GLM-4.6, GLM-4.7"),
    ("glm4moe", "GLM-4.5, GLM-4.6, GLM-4.7"),
    ("glm4_moe_lite", "GLM-4.7-Flash"),
    ("deepseek2", "GLM-4.7-Flash"),
    ("glm_moe_dsa", "GLM-5"),
    ("glm-dsa", "GLM-5"),
    ("glm4v", "GLM-4.1V, GLM-4.6V-Flash, AutoGLM-Phone"),
    ("glm4v_text", "GLM-4.1V, GLM-4.6V-Flash, AutoGLM-Phone"),
    ("glm4v_moe", "GLM-4.5V, GLM-4.6V"),
    ("glm4v_moe_text", "GLM-4.5V, GLM-4.6V"),
    ("glm46v", "GLM-4.6V"),
    ("glm5_next", "GLM-5.3-Flash"),
    ("glm5-next", "GLM-5.3-Flash"),
    ("glm_ocr", "GLM-OCR"),
    ("glmasr", "GLM-ASR"),
    ("glm_image", "GLM-Image"),
    ("glmga", "GLM-GA"),
];

/// The error for a name that is none of the supported ones: known but not yet, or unknown.
pub(super) fn unsupported(file: &Path, found: &str) -> LoadError {
    let (file, found) = (file.to_path_buf(), found.to_owned());
    match NOT_YET.iter().find(|(name, _)| *name == found) {
        Some(&(_, member)) => LoadError::NotYet {
            file,
            found,
            member,
        },
        None => LoadError::Architecture { file, found },
    }
}

/// The error for a relative that shares its name with a supported model.
pub(super) fn not_yet(file: &Path, found: &str, member: &'static str) -> LoadError {
    LoadError::NotYet {
        file: file.to_path_buf(),
        found: found.to_owned(),
        member,
    }
}
