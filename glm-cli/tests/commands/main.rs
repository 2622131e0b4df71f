//! Every command on the embedded model, the way a person or a script would call it.

#[path = "../common/mod.rs"]
mod common;

mod bench;
mod chat;
mod doctor;
mod generate;
mod inspect;
mod machine;
mod perplexity;
mod quantize;
mod tokenize;

use serde_json::Value;

fn ids(value: &Value) -> String {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
