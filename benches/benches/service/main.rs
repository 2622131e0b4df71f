//! What the service costs beside the engine, and what becomes of it when far more is asked of it than it can do.
//!
//! ```text
//! cargo build --release && cargo bench -p glm-benches --bench service -- [WHAT…] [NAME=VALUE…]
//! ```
//!
//! WHAT: `overhead`, `load`; both if none is named. Each file says what it does and what must come out.
//!
//! | name | default | |
//! |---|---|---|
//! | `model` | `demo` | MODEL; it must have a tokenizer |
//! | `streams` | 64 | overhead: answers at a time |
//! | `requests` | 8 | overhead: of each stream in a round |
//! | `tokens` | 128 | of an answer |
//! | `rounds` | 5 | overhead: in which engine and service take turns; load: waves of clients |
//! | `places` | 16 | load: requests that the service computes together; as many may wait |
//! | `clients` | 128 | load: clients at a time, four times as many as there is room for |
//! | `server` | `glm-cli` beside this program's folder | load: the program to ask |

#[path = "../common/mod.rs"]
mod common;

mod client;
mod load;
mod overhead;
mod program;

use common::is_measuring;
use common::options::Options;

const NAMES: [&str; 8] = [
    "model", "streams", "requests", "tokens", "rounds", "places", "clients", "server",
];

/// Sizes, and the questions that are asked.
struct Setup(Options);

impl Setup {
    /// A size; another one while benchmarks are only tried out.
    fn size(&self, name: &str, measured: usize, tried: usize) -> usize {
        let default = if is_measuring() { measured } else { tried };
        self.0.get(name).unwrap_or(default)
    }

    fn model(&self) -> String {
        self.0.get("model").unwrap_or_else(|| "demo".to_owned())
    }
}

fn main() {
    let setup = Setup(Options::read(&NAMES));
    let words = &setup.0.words;
    for word in words {
        let known = ["overhead", "load"].contains(&word.as_str());
        assert!(known, "`{word}` is neither overhead nor load");
    }
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if is_wanted("overhead") {
        runtime.block_on(overhead::run(&setup));
    }
    if is_wanted("load") {
        runtime.block_on(load::run(&setup));
    }
}
