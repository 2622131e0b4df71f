//! What abilities of the engine cost, and how much of its speed a batch reaches.
//!
//! ```text
//! cargo bench -p glm-benches --bench engine -- [WHAT…] [NAME=VALUE…]
//! ```
//!
//! WHAT: `masks`, `batch`, `adapters`, `swapping`; all of them if none is named. Each file says what it compares and what to expect.
//!
//! | name | default | |
//! |---|---|---|
//! | `model` | `random:glm-edge-1.5b` | MODEL, quantised to Q8_0; for masks one of `random:` |
//! | `streams` | of each its own | answers at a time; for masks several: `streams=1,8,32` |
//! | `prompt` | of each its own | tokens of a prompt |
//! | `tokens` | of each its own | tokens of an answer |
//! | `requests` | 48 | of a batch |
//! | `rounds` | 3, of a batch 1 | in which all variants take turns |

use glm_runtime::{Engine, EngineBuilder, ModelInfo, Quantization, WeightFormat};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod batch;
mod checkpoint;
mod masks;
mod swapping;

use common::is_measuring;
use common::options::Options;

const NAMES: [&str; 6] = ["model", "streams", "prompt", "tokens", "requests", "rounds"];
/// What is measured, by its name on the command line.
type Measurement = (&'static str, fn(&Setup));

const MEASUREMENTS: [Measurement; 4] = [
    ("masks", masks::run),
    ("batch", batch::run),
    ("adapters", adapters::run),
    ("swapping", swapping::run),
];

fn main() {
    let setup = Setup {
        options: Options::read(&NAMES),
    };
    let words = &setup.options.words;
    for word in words {
        let known = MEASUREMENTS.iter().any(|(name, _)| name == word);
        assert!(known, "`{word}` is none of {:?}", MEASUREMENTS.map(|m| m.0));
    }
    for (name, run) in MEASUREMENTS {
        if words.is_empty() || words.iter().any(|word| word == name) {
            run(&setup);
        }
    }
}

/// What the command line says, and the sizes where it says nothing: small ones where a measurement is only tried out.
struct Setup {
    options: Options,
}

impl Setup {
    fn size(&self, name: &str, measured: usize, tried: usize) -> usize {
        let default = if is_measuring() { measured } else { tried };
        self.options.get(name).unwrap_or(default)
    }

    fn rounds(&self) -> usize {
        self.size("rounds", 3, 1)
    }

    fn model(&self) -> String {
        let model = if is_measuring() {
            "random:glm-edge-1.5b"
        } else {
            "demo"
        };
        self.options
            .get("model")
            .unwrap_or_else(|| model.to_owned())
    }

    /// What it takes to repeat a measurement, but for what is its own.
    fn parameters(&self, model: &str, info: &ModelInfo, own: &Value) -> Value {
        let mut all = own.clone();
        all["model"] = json!(model);
        all["quantize"] = json!("q8_0");
        all["threads"] = json!(info.threads);
        all["device"] = json!(info.device);
        all
    }
}

/// An engine as everything here is measured with.
fn builder(model: &str) -> EngineBuilder {
    Engine::builder(model)
        .quantize(Quantization::Uniform(WeightFormat::Q8_0))
        .offline(true)
}

/// A folder on the disk of the build: that of the system may be in memory.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}
