//! Published checkpoints of the GLM family.

/// A published checkpoint and whether the engine runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownCheckpoint {
    /// Hub repository, `owner/name`.
    pub hub_id: &'static str,
    /// `model_type` in its `config.json`.
    pub architecture: &'static str,
    /// Rounded number of parameters, for people; "A" marks the active ones of a mixture of experts.
    pub parameters: &'static str,
    /// Whether the engine has this architecture. Unsupported ones are listed so that they can be refused by name.
    pub supported: bool,
}

const fn runs(
    hub_id: &'static str,
    architecture: &'static str,
    parameters: &'static str,
) -> KnownCheckpoint {
    KnownCheckpoint {
        hub_id,
        architecture,
        parameters,
        supported: true,
    }
}

const fn later(
    hub_id: &'static str,
    architecture: &'static str,
    parameters: &'static str,
) -> KnownCheckpoint {
    KnownCheckpoint {
        hub_id,
        architecture,
        parameters,
        supported: false,
    }
}

/// Published checkpoints, older generations first.
///
/// `supported` speaks of the architecture: nobody has run every one of these files.
pub const KNOWN_CHECKPOINTS: &[KnownCheckpoint] = &[
    runs("zai-org/chatglm2-6b", "chatglm", "6.2B"),
    runs("zai-org/chatglm3-6b", "chatglm", "6.2B"),
    runs("zai-org/chatglm3-6b-32k", "chatglm", "6.2B"),
    runs("zai-org/glm-4-9b-chat", "chatglm", "9.4B"),
    runs("zai-org/glm-4-9b-chat-1m", "chatglm", "9.5B"),
    runs("zai-org/glm-4-9b-chat-hf", "glm", "9.4B"),
    runs("zai-org/glm-edge-1.5b-chat", "glm", "1.5B"),
    runs("zai-org/glm-edge-4b-chat", "glm", "4.1B"),
    runs("zai-org/GLM-4-9B-0414", "glm4", "9.4B"),
    runs("zai-org/GLM-4-32B-0414", "glm4", "32.6B"),
    runs("zai-org/GLM-Z1-9B-0414", "glm4", "9.4B"),
    runs("zai-org/GLM-Z1-32B-0414", "glm4", "32.6B"),
    runs("zai-org/GLM-Z1-Rumination-32B-0414", "glm4", "32.6B"),
    later("zai-org/GLM-4.1V-9B-Thinking", "glm4v", "10B"),
    later("zai-org/AutoGLM-Phone-9B", "glm4v", "10B"),
    later("zai-org/GLM-4.5-Air", "glm4_moe", "106B-A12B"),
    later("zai-org/GLM-4.5", "glm4_moe", "355B-A32B"),
    later("zai-org/GLM-4.6", "glm4_moe", "355B-A32B"),
    later("zai-org/GLM-4.7", "glm4_moe", "355B-A32B"),
    later("zai-org/GLM-4.5V", "glm4v_moe", "106B-A12B"),
    later("zai-org/GLM-4.7-Flash", "glm4_moe_lite", "30B-A3B"),
    later("zai-org/GLM-5", "glm_moe_dsa", "744B-A40B"),
];

/// The entry for a hub id; letter case does not matter, and neither does the former owner name `THUDM`.
#[must_use]
pub fn known_checkpoint(hub_id: &str) -> Option<&'static KnownCheckpoint> {
    let (owner, name) = hub_id.split_once('/')?;
    let owner = if owner.eq_ignore_ascii_case("THUDM") {
        "zai-org"
    } else {
        owner
    };
    KNOWN_CHECKPOINTS.iter().find(|known| {
        known
            .hub_id
            .split_once('/')
            .is_some_and(|(o, n)| o.eq_ignore_ascii_case(owner) && n.eq_ignore_ascii_case(name))
    })
}
