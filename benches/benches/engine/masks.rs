//! The cost of masks: decoding under a grammar against decoding freely.
//!
//! All answers have the same number of tokens: no grammar here comes to an end by then, and end tokens are ignored. They are greedy, so that
//! choosing a token costs the same with and without a mask (to sample, the tokens that are left are sorted: few under a grammar), and
//! repetition is penalised, so that a grammar is led through many states and not through one again and again.
//!
//! What a grammar needs for each token and stream is one mask over the vocabulary, and one pass over a row of logits to apply it: V bits, and
//! 4 V bytes of f32. Masks are computed while the model computes; a step becomes longer by as much as no core was idle for. `first_ms` is the
//! submission of the first request with that grammar, which compiles it; that of `regex` builds the tables of the vocabulary besides.

use std::time::Instant;

use glm_runtime::{Engine, GenerateOptions, Grammar, Request, SamplingParams};
use serde_json::{Value, json};

use crate::common::is_measuring;
use crate::common::requests::{answer, exactly, median, print, prompt, rounded, spread};
use crate::{Setup, builder, checkpoint, folder};

/// Assignments of sums and products, without end.
const LARK: &str = r#"
start: assignment+
assignment: NAME " = " sum ";\n"
sum: product ((" + " | " - ") product)*
product: operand ((" * " | " / ") operand)*
operand: NAME | NUMBER | "(" sum ")"
NAME: /[a-z][a-z0-9_]*/
NUMBER: /[0-9]+(\.[0-9]+)?/
"#;

/// A list of records, of more items than there are tokens.
fn schema(tokens: usize) -> Value {
    json!({
        "type": "array",
        "minItems": tokens,
        "items": {
            "type": "object",
            "properties": {
                "name": { "type": "string", "maxLength": 16 },
                "age": { "type": "integer", "minimum": 0, "maximum": 150 },
                "role": { "enum": ["admin", "editor", "reader"] },
                "active": { "type": "boolean" },
            },
            "required": ["name", "age", "role", "active"],
            "additionalProperties": false,
        },
    })
}

fn grammars(tokens: usize) -> [(&'static str, Option<Grammar>); 4] {
    [
        ("free", None),
        ("regex", Some(Grammar::Regex("[a-z ]*".to_owned()))),
        ("json_schema", Some(Grammar::JsonSchema(schema(tokens)))),
        ("lark", Some(Grammar::Lark(LARK.to_owned()))),
    ]
}

fn request(seed: usize, len: usize, tokens: usize, grammar: &Option<Grammar>) -> Request {
    let sampling = SamplingParams {
        frequency_penalty: 2.0,
        ..SamplingParams::default()
    };
    Request::new(prompt(seed, len)).with_options(GenerateOptions {
        sampling,
        grammar: grammar.clone(),
        ..exactly(tokens)
    })
}

/// Milliseconds until the first request with a grammar is accepted.
fn first_ms(engine: &mut Engine, first: &Request) -> f64 {
    let begin = Instant::now();
    engine.submit(first.clone()).expect("a grammar");
    let elapsed = begin.elapsed();
    while engine.has_work() {
        engine.step();
    }
    rounded(elapsed.as_secs_f64() * 1e3)
}

pub fn run(setup: &Setup) {
    let preset = match setup.options.get::<String>("model") {
        Some(model) => model,
        None if is_measuring() => "random:glm-edge-1.5b".to_owned(),
        None => "random:tiny-9m".to_owned(),
    };
    let default = if is_measuring() {
        vec![1, 8, 32]
    } else {
        vec![1, 3]
    };
    let batches: Vec<usize> = setup.options.list("streams").unwrap_or(default);
    // Those of 32 streams fit into one step, so that no answer is ahead of the others.
    let (len, tokens) = (setup.size("prompt", 16, 16), setup.size("tokens", 64, 12));
    let most = batches.iter().max().expect("a number of streams");

    let folder = folder();
    checkpoint::write(&preset, folder.path());
    let mut engine = builder(folder.path().to_str().expect("UTF-8"))
        .max_model_len(len + tokens)
        .max_num_seqs(*most)
        .kv_cache_tokens(most * (len + tokens + 16))
        .build_engine()
        .unwrap_or_else(|error| panic!("{preset}: {error}"));
    let variants = grammars(tokens).map(|(name, grammar)| {
        let first_ms = first_ms(&mut engine, &request(0, len, 1, &grammar));
        (name, grammar, first_ms)
    });
    for streams in batches {
        let mut tok_s = variants.each_ref().map(|_| Vec::new());
        for round in 0..setup.rounds() {
            for ((name, grammar, _), tok_s) in variants.iter().zip(&mut tok_s) {
                let request = |i| request(1 + round * streams + i, len, tokens, grammar);
                let requests: Vec<_> = (0..streams).map(request).collect();
                let answers = answer(&mut engine, &requests, |_| {});
                let whole = answers.ids.iter().all(|ids| ids.len() == tokens);
                assert!(whole, "{name} ended an answer");
                tok_s.push(answers.decode_tok_s());
            }
        }
        let own = json!({
            "streams": streams,
            "prompt_tokens": len,
            "answer_tokens": tokens,
            "rounds": setup.rounds(),
            "vocab_size": engine.model_info().vocab_size,
        });
        let parameters = setup.parameters(&preset, engine.model_info(), &own);
        for ((name, _, first_ms), samples) in variants.iter().zip(&tok_s) {
            let numbers = json!({
                "tok_s": spread(samples),
                "share_of_free": rounded(median(samples) / median(&tok_s[0])),
                "first_ms": first_ms,
            });
            print("masks", name, numbers, &parameters);
        }
    }
}
