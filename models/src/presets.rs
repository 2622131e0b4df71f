//! Configurations of published models, as their `config.json` states them, and one made up to measure overhead.

/// A configuration for `random:NAME`: weights drawn from a seed at the true sizes of a known model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// What the user types after `random:`.
    pub name: &'static str,
    /// The hub repository whose sizes these are; `None` for sizes that no published model has.
    pub hub_id: Option<&'static str>,
    /// Rounded number of parameters, for people.
    pub parameters: &'static str,
    /// Text of `config.json`.
    pub config_json: &'static str,
}

macro_rules! preset {
    ($name:literal, $hub_id:expr, $parameters:literal) => {
        Preset {
            name: $name,
            hub_id: $hub_id,
            parameters: $parameters,
            config_json: include_str!(concat!("../presets/", $name, ".json")),
        }
    };
}

/// Every preset, smallest first.
///
/// All sizes are the published ones, with two exceptions: `intermediate_size` of `glm-edge-4b` is inferred from its
/// parameter count, and `tiny-9m` is so small that it stays in the cache and a step is mostly overhead.
pub const PRESETS: &[Preset] = &[
    preset!("tiny-9m", None, "0.009B"),
    preset!("glm-edge-1.5b", Some("zai-org/glm-edge-1.5b-chat"), "1.5B"),
    preset!("glm-edge-4b", Some("zai-org/glm-edge-4b-chat"), "4.1B"),
    preset!("chatglm3-6b", Some("zai-org/chatglm3-6b"), "6.2B"),
    preset!("glm-4-9b", Some("zai-org/glm-4-9b-chat-hf"), "9.4B"),
    preset!("glm-4-9b-0414", Some("zai-org/GLM-4-9B-0414"), "9.4B"),
    preset!("glm-4-32b-0414", Some("zai-org/GLM-4-32B-0414"), "32.6B"),
];

/// The preset called `name`, as listed in [`PRESETS`].
#[must_use]
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}
