//! `inspect`: what is in a checkpoint, and whether it fits here.

use std::fmt::Write;

use glm_runtime::inspect::{InspectOptions, Inspection, MemorySummary, inspect};
use indicatif::BinaryBytes;
use serde_json::json;

use super::{open_source, refuse_cuda};
use crate::args::InspectArgs;
use crate::error::CliError;
use crate::terminal::{output, style::Style};

pub fn run(args: &InspectArgs) -> Result<(), CliError> {
    refuse_cuda(args.model.device)?;
    let source = open_source(&args.model)?;
    let options = InspectOptions {
        quantize: args.model.quantize,
        kv_dtype: args.model.kv_dtype.dtype(),
        max_model_len: args.model.max_model_len,
    };
    let inspection = inspect(&source, &options);
    if args.json {
        return output::print_json(&json!(inspection));
    }
    output::print(&describe(&inspection))?;
    if args.tensors {
        output::print(&tensors(&inspection))
    } else {
        Ok(())
    }
}

fn describe(model: &Inspection) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<14}{value}");
    };
    row("name", Style::stdout().bold(&model.name));
    if let Some(path) = &model.path {
        row("path", path.display().to_string());
    }
    row(
        "architecture",
        format!("{} ({})", model.architecture, model.format),
    );
    row(
        "parameters",
        format!(
            "{} in {} tensors, {}",
            count(model.parameters),
            model.tensors.len(),
            BinaryBytes(model.tensor_bytes)
        ),
    );
    for (name, total) in &model.types {
        row(
            "",
            format!(
                "{name:<7}{:>6} tensors  {:>12}",
                total.tensors,
                BinaryBytes(total.bytes).to_string()
            ),
        );
    }
    row("sizes", sizes(&model.config));
    if let Some(tokenizer) = &model.tokenizer {
        let special = tokenizer.special_tokens.len();
        row(
            "tokenizer",
            format!(
                "{} tokens, {special} of them special, prefix `{}`",
                tokenizer.vocab_size, tokenizer.prefix_text
            ),
        );
    }
    if let Some(chat) = &model.chat {
        let template = if chat.own_template {
            "the checkpoint's own template"
        } else {
            "built-in template"
        };
        row("chat", format!("{}, {template}", chat.generation));
    }
    let ends: Vec<_> = model
        .generation
        .eos_token_ids
        .iter()
        .map(u32::to_string)
        .collect();
    if !ends.is_empty() {
        row("end tokens", ends.join(", "));
    }
    for problem in &model.problems {
        row("problem", Style::stdout().red(problem));
    }
    text + &memory(&model.memory)
}

fn memory(memory: &MemorySummary) -> String {
    let estimate = &memory.estimate;
    let mut text = format!(
        "memory for a context of {} tokens, KV as {}:\n",
        memory.max_model_len, memory.kv_dtype
    );
    for line in estimate.to_string().lines() {
        text += &format!("  {line}\n");
    }
    let style = Style::stdout();
    let verdict = match (&memory.advice, estimate.available) {
        (Some(advice), _) => style.red(&format!("does not fit here: {advice}")),
        (None, Some(_)) => style.green("fits here"),
        (None, None) => "this system does not say how much memory is free".to_owned(),
    };
    text + "  " + &verdict + "\n"
}

/// The numbers that people compare models by.
fn sizes(config: &serde_json::Value) -> String {
    let named = [
        ("layers", "num_hidden_layers"),
        ("hidden", "hidden_size"),
        ("mlp", "intermediate_size"),
        ("heads", "num_attention_heads"),
        ("kv heads", "num_key_value_heads"),
        ("head dim", "head_dim"),
        ("vocabulary", "vocab_size"),
        ("context", "max_position_embeddings"),
    ];
    let known = named
        .iter()
        .filter_map(|(label, key)| Some(format!("{label} {}", config.get(key)?)));
    known.collect::<Vec<_>>().join(", ")
}

fn tensors(model: &Inspection) -> String {
    let lines = model.tensors.iter().map(|tensor| {
        format!(
            "{:<56} {:<7}{:>12}  {:?}\n",
            tensor.name,
            tensor.ty,
            BinaryBytes(tensor.bytes).to_string(),
            tensor.shape
        )
    });
    lines.collect()
}

/// A number of weights as people write it: 9.4 B, 1.59 B, 57.3 K.
fn count(number: u64) -> String {
    let units = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")];
    let number = number as f64;
    match units.iter().find(|(size, _)| number >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", number / size),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_short() {
        assert_eq!(count(9_399_951_360), "9.40 B");
        assert_eq!(count(57_344), "57.34 K");
        assert_eq!(count(12), "12");
    }

    #[test]
    fn sizes_name_what_the_config_has() {
        assert_eq!(
            sizes(&json!({ "hidden_size": 64, "other": 1 })),
            "hidden 64"
        );
    }
}
