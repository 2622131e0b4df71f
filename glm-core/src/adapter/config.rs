//! `adapter_config.json`: which of PEFT's fields decide what an adapter computes, and what is refused.

use std::path::{Path, PathBuf};

use regex::{Regex, RegexSet, RegexSetBuilder};
use serde_json::{Map, Value};

use crate::error::LoadError;

/// Fields that say how an adapter was made or is described, and change nothing that it computes.
const NO_EFFECT: [&str; 15] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// What a config may say beside [`NO_EFFECT`] and what is read: anything else is refused unless it asks for nothing.
const READ: [&str; 11] = [
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
];

/// Memory for the compiled patterns of one field; the `regex` crate's own default.
const MAX_PATTERN_BYTES: usize = 10 << 20;

/// What an adapter's configuration says of its modules.
pub(super) struct LoraConfig {
    file: PathBuf,
    r: usize,
    alpha: f64,
    rslora: bool,
    ranks: Patterns<usize>,
    alphas: Patterns<f64>,
    targets: Modules,
    excluded: Modules,
    /// `None`: all.
    layers: Option<Vec<usize>>,
}

impl LoraConfig {
    /// Reads the text of an `adapter_config.json`.
    ///
    /// # Errors
    /// [`LoadError::Json`], [`LoadError::MissingField`], [`LoadError::Config`] or [`LoadError::AdapterNotSupported`].
    pub(super) fn read(text: &str, file: &Path) -> Result<Self, LoadError> {
        let json = |source| LoadError::Json {
            file: file.to_path_buf(),
            source,
        };
        let map: Map<String, Value> = serde_json::from_str(text).map_err(json)?;
        let fields = Fields { map: &map, file };
        fields.refuse_what_is_not_computed()?;
        let layers = match fields.value("layers_to_transform") {
            None => None,
            Some(Value::Array(list)) if list.is_empty() => None,
            Some(Value::Array(list)) => Some(list.iter().map(whole).collect::<Option<Vec<_>>>()),
            Some(value) => Some(whole(value).map(|layer| vec![layer])),
        };
        let layers = match layers {
            Some(None) => {
                return Err(fields.wrong("layers_to_transform", "a list of layer numbers"));
            }
            layers => layers.flatten(),
        };
        Ok(Self {
            file: file.to_path_buf(),
            r: fields.required("r", "a whole number of at least 1", rank)?,
            alpha: fields.required("lora_alpha", "a number", Value::as_f64)?,
            rslora: fields.flag("use_rslora")?,
            ranks: fields.patterns("rank_pattern", "whole numbers of at least 1", rank)?,
            alphas: fields.patterns("alpha_pattern", "numbers", Value::as_f64)?,
            targets: fields.modules("target_modules")?,
            excluded: fields.modules("exclude_modules")?,
            layers,
        })
    }

    /// The rank of a module.
    pub(super) fn rank(&self, module: &str) -> usize {
        self.ranks.get(module).unwrap_or(self.r)
    }

    /// The factor on a module's `B A`.
    ///
    /// # Errors
    /// [`LoadError::Config`] if f32 cannot hold it.
    pub(super) fn scaling(&self, module: &str) -> Result<f32, LoadError> {
        let (alpha, rank) = (
            self.alphas.get(module).unwrap_or(self.alpha),
            self.rank(module) as f64,
        );
        let divisor = if self.rslora { rank.sqrt() } else { rank };
        let scaling = (alpha / divisor) as f32;
        if scaling.is_finite() {
            return Ok(scaling);
        }
        Err(LoadError::Config {
            file: self.file.clone(),
            field: format!("lora_alpha` of `{module}"), // shown between backticks
            expected: "a number that divided by the rank fits into 32 bits".into(),
            found: alpha.to_string(),
        })
    }

    /// Refuses tensors of a module that the configuration leaves out: one of the two is wrong. `layer`: the decoder layer that it is in.
    pub(super) fn check_targeted(
        &self,
        module: &str,
        layer: Option<usize>,
        weights: &Path,
    ) -> Result<(), LoadError> {
        let left_out = |field: &str| LoadError::Header {
            file: weights.to_path_buf(),
            field: format!("module `{module}`"),
            expected: format!("one that `{field}` of {} includes", self.file.display()),
            found: "left out there".into(),
        };
        if !self.targets.contains(module) {
            return Err(left_out("target_modules"));
        }
        if self.excluded.contains(module) {
            return Err(left_out("exclude_modules"));
        }
        match &self.layers {
            Some(layers) if layer.is_none_or(|layer| !layers.contains(&layer)) => {
                Err(left_out("layers_to_transform"))
            }
            _ => Ok(()),
        }
    }
}

fn rank(value: &Value) -> Option<usize> {
    whole(value).filter(|&rank| rank >= 1)
}

fn whole(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// Whether a field asks for nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The fields of a config, read one by one so that an error can name the one that is wrong.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    file: &'a Path,
}

impl Fields<'_> {
    /// A field's value; `null` counts as absent.
    fn value(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, expected: &str) -> LoadError {
        LoadError::Config {
            file: self.file.to_path_buf(),
            field: name.to_owned(),
            expected: expected.to_owned(),
            found: shown(self.map.get(name).unwrap_or(&Value::Null)),
        }
    }

    fn required<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, LoadError> {
        match self.value(name) {
            Some(value) => read(value).ok_or_else(|| self.wrong(name, expected)),
            None => Err(LoadError::MissingField {
                file: self.file.to_path_buf(),
                field: name.to_owned(),
            }),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, LoadError> {
        let value = self.value(name).unwrap_or(&Value::Bool(false));
        value
            .as_bool()
            .ok_or_else(|| self.wrong(name, "true or false"))
    }

    /// Refuses every field that PEFT computes with and this engine does not, unless it asks for nothing.
    fn refuse_what_is_not_computed(&self) -> Result<(), LoadError> {
        let refused = |field: &str, value: &Value, expected| {
            Err(LoadError::AdapterNotSupported {
                file: self.file.to_path_buf(),
                field: format!("`{field}`"),
                found: shown(value),
                expected,
            })
        };
        let null = &Value::Null;
        for (field, value) in self.map {
            let text = value.as_str();
            match field.as_str() {
                "peft_type" if text == Some("LORA") => {}
                "peft_type" => return refused(field, value, "\"LORA\""),
                "task_type" if value.is_null() || text == Some("CAUSAL_LM") => {}
                "task_type" => return refused(field, value, "\"CAUSAL_LM\""),
                "bias" if value.is_null() || text == Some("none") => {}
                "bias" => return refused(field, value, "\"none\""),
                "init_lora_weights" if keeps_the_base(value) => {}
                "init_lora_weights" => {
                    let kept = "one that leaves the model's own weights as they are";
                    return refused(field, value, kept);
                }
                "use_rslora" => {}
                known if READ.contains(&known) || NO_EFFECT.contains(&known) => {}
                _ if is_empty(value) => {}
                _ => return refused(field, value, "nothing but plain LoRA and rsLoRA"),
            }
        }
        match self.value("peft_type") {
            Some(_) => Ok(()),
            None => refused("peft_type", null, "\"LORA\""),
        }
    }

    /// A table from patterns of module paths to values, in PEFT's order: the first that matches counts.
    fn patterns<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Patterns<T>, LoadError> {
        let what = || format!("an object from patterns to {expected}");
        let empty = Map::new();
        let table = match self.value(name) {
            None => &empty,
            Some(Value::Object(table)) => table,
            Some(_) => return Err(self.wrong(name, &what())),
        };
        let values = table.values().map(&read).collect::<Option<Vec<T>>>();
        let values = values.ok_or_else(|| self.wrong(name, &what()))?;
        // As PEFT's `get_pattern_key` has it.
        let patterns = table.keys().map(|key| format!(r"^(?:.*\.)?(?:{key})$"));
        let set = RegexSetBuilder::new(patterns)
            .size_limit(MAX_PATTERN_BYTES)
            .build()
            .map_err(|error| self.pattern_error(name, &error))?;
        Ok(Patterns { set, values })
    }

    /// Names of modules: a list of the ends of paths, or one pattern of whole paths.
    fn modules(&self, name: &str) -> Result<Modules, LoadError> {
        let expected = "a list of module names, or one pattern";
        match self.value(name) {
            None if name == "exclude_modules" => Ok(Modules::Named(Vec::new())),
            None => Ok(Modules::All),
            Some(Value::String(all)) if all == "all-linear" => Ok(Modules::All),
            Some(Value::String(pattern)) => {
                let regex = regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
                    .size_limit(MAX_PATTERN_BYTES)
                    .build()
                    .map_err(|error| self.pattern_error(name, &error))?;
                Ok(Modules::Matching(regex))
            }
            Some(Value::Array(list)) => {
                let names = list.iter().map(|name| name.as_str().map(str::to_owned));
                let names = names.collect::<Option<_>>();
                Ok(Modules::Named(
                    names.ok_or_else(|| self.wrong(name, expected))?,
                ))
            }
            Some(_) => Err(self.wrong(name, expected)),
        }
    }

    fn pattern_error(&self, name: &str, error: &regex::Error) -> LoadError {
        let reason = match error {
            regex::Error::CompiledTooBig(_) => "its patterns take too much memory".to_owned(),
            // The last line is the reason; those before it draw the pattern.
            error => error
                .to_string()
                .lines()
                .last()
                .unwrap_or_default()
                .trim()
                .to_owned(),
        };
        self.wrong(
            name,
            &format!("regular expressions without look-around and back references ({reason})"),
        )
    }
}

/// Ways to begin a training that leave the model's own weights as they are. The others (PiSSA, OLoRA, LoftQ, …) save adapters to
/// other weights, unless PEFT has converted them, and then it says so here.
fn keeps_the_base(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::String(name) => ["gaussian", "eva", "orthogonal"].contains(&name.as_str()),
        _ => false,
    }
}

/// A value as an error shows it: not a whole file.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Values of the modules whose path matches a pattern.
struct Patterns<T> {
    set: RegexSet,
    values: Vec<T>,
}

impl<T: Copy> Patterns<T> {
    fn get(&self, module: &str) -> Option<T> {
        let first = self.set.matches(module).iter().next()?;
        self.values.get(first).copied()
    }
}

/// Some of a model's modules.
enum Modules {
    All,
    Named(Vec<String>),
    Matching(Regex),
}

impl Modules {
    /// As PEFT's `check_target_module_exists` has it.
    fn contains(&self, module: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| {
                let before = module.strip_suffix(name.as_str());
                before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
            Self::Matching(regex) => regex.is_match(module),
        }
    }
}
