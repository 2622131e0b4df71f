//! Every command on the embedded model, the way a person or a script would call it.

mod common;

use std::fs;

use common::{Run, arg, command, glm, glm_with_stdin, model};
use serde_json::{Value, json};

fn ids(value: &Value) -> String {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

#[test]
fn generate_prints_the_answer_and_says_what_the_demo_is() {
    let run = glm(&[
        "generate",
        "--prompt",
        "Hello",
        "--max-tokens",
        "8",
        "--temperature",
        "0",
    ]);
    assert!(
        run.stderr.starts_with("note: ") && run.stderr.contains("toy"),
        "{}",
        run.stderr
    );
    assert!(run.ok().ends_with('\n'));
}

#[test]
fn generate_json_tells_everything_about_the_answer() {
    let args = [
        "generate",
        "--prompt",
        "Hello",
        "--max-tokens",
        "8",
        "--temperature",
        "0",
        "--ignore-eos",
        "--json",
    ];
    let plain = glm(&args).json();
    assert_eq!(plain["token_ids"].as_array().unwrap().len(), 8);
    assert_eq!(plain["finish_reason"], "length");
    assert_eq!(plain["usage"]["completion_tokens"], 8);
    let prompt_tokens = plain["prompt_token_ids"].as_array().unwrap().len();
    assert_eq!(plain["usage"]["prompt_tokens"], prompt_tokens);
    assert_eq!(plain["usage"]["total_tokens"], prompt_tokens + 8);
    assert!(plain["timings"]["ttft_ms"].as_f64().unwrap() > 0.0);
    assert!(plain.get("logprobs").is_none());

    let detailed = glm(&[&args[..], &["--logprobs", "3"]].concat()).json();
    assert_eq!(detailed["token_ids"], plain["token_ids"]);
    let logprobs = detailed["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 8);
    for (entry, id) in logprobs.iter().zip(plain["token_ids"].as_array().unwrap()) {
        assert_eq!(&entry["id"], id);
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(&top[0]["id"], id, "greedy takes the likeliest");
        assert_eq!(top[0]["logprob"], entry["logprob"]);
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
    }
}

#[test]
fn a_prompt_comes_from_an_option_a_file_or_stdin() {
    let rest = ["--max-tokens", "6", "--temperature", "0", "--json"];
    let from = |source: &[&str]| glm(&[&["generate"], source, &rest].concat()).json();
    let option = from(&["--prompt", "Hello there"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    fs::write(&file, "Hello there\n").unwrap();
    let file = from(&["--prompt-file", arg(&file)]);
    let stdin = glm_with_stdin(&[&["generate"], &rest[..]].concat(), "Hello there\n").json();
    for other in [file, stdin] {
        assert_eq!(other["prompt_token_ids"], option["prompt_token_ids"]);
        assert_eq!(other["text"], option["text"]);
    }
}

#[test]
fn prompt_ids_are_used_exactly_as_given() {
    let rest = ["--max-tokens", "6", "--temperature", "0", "--json"];
    let text = glm(&[&["generate", "--prompt", "Hello"], &rest[..]].concat()).json();
    let round = glm(&[
        &["generate", "--prompt-ids", &ids(&text["prompt_token_ids"])],
        &rest[..],
    ]
    .concat())
    .json();
    assert_eq!(round["prompt_token_ids"], text["prompt_token_ids"]);
    assert_eq!(round["token_ids"], text["token_ids"]);
    let three = glm(&[&["generate", "--prompt-ids", "1,2,3"], &rest[..]].concat()).json();
    assert_eq!(three["prompt_token_ids"], json!([1, 2, 3]));
}

#[test]
fn a_raw_prompt_gets_the_prefix_once_and_no_template() {
    let rest = ["--raw", "--max-tokens", "1", "--temperature", "0", "--json"];
    let prompt = |text: &str| {
        glm(&[&["generate", "--prompt", text], &rest[..]].concat()).json()["prompt_token_ids"]
            .clone()
    };
    let inspection = glm(&["inspect", "--json"]).json();
    let prefix = inspection["tokenizer"]["prefix"].as_array().unwrap();
    let prefix_text = inspection["tokenizer"]["prefix_text"].as_str().unwrap();
    let plain = glm(&["tokenize", "Hello", "--json"]).json()["token_ids"].clone();
    let expected = Value::Array(
        prefix
            .iter()
            .chain(plain.as_array().unwrap())
            .cloned()
            .collect(),
    );
    assert_eq!(prompt("Hello"), expected);
    assert_eq!(prompt(&format!("{prefix_text}Hello")), expected);
    // To the letter, the last line end included.
    let stdin = glm_with_stdin(&[&["generate"], &rest[..]].concat(), "Hello\n").json();
    assert_ne!(stdin["prompt_token_ids"], expected);
}

#[test]
fn a_stop_text_ends_the_answer_before_it() {
    let args = [
        "generate",
        "--prompt",
        "Hello",
        "--max-tokens",
        "32",
        "--temperature",
        "0",
        "--ignore-eos",
        "--json",
    ];
    let whole = glm(&args).json()["text"].as_str().unwrap().to_owned();
    let middle = whole
        .char_indices()
        .nth(whole.chars().count() / 2)
        .unwrap()
        .0;
    let stop: String = whole[middle..].chars().take(2).collect();
    let stopped = glm(&[&args[..], &["--stop", &stop]].concat()).json();
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(
        stopped["text"].as_str().unwrap(),
        &whole[..whole.find(&stop).unwrap()]
    );
}

#[test]
fn the_same_seed_samples_the_same_answer() {
    let run = |seed: &str| {
        let args = [
            "generate",
            "--prompt",
            "Tell me a story.",
            "--max-tokens",
            "16",
            "--temperature",
            "3",
            "--top-k",
            "50",
            "--top-p",
            "0.99",
            "--min-p",
            "0.001",
            "--repetition-penalty",
            "1.1",
            "--ignore-eos",
            "--json",
            "--seed",
            seed,
        ];
        glm(&args).json()["token_ids"].clone()
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));
}

#[test]
fn machine_options_work() {
    let args = [
        "generate",
        "--prompt",
        "Hello",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
        "--json",
    ];
    let plain = glm(&args).json();
    for options in [
        &["--threads", "1"][..],
        &["--device", "cpu"],
        &["--kv-dtype", "f32"],
        &["--max-model-len", "256"],
    ] {
        assert_eq!(
            glm(&[&args[..], options].concat()).json()["token_ids"],
            plain["token_ids"],
            "{options:?}"
        );
    }
    for options in [
        &["--kv-dtype", "f16"][..],
        &["--kv-dtype", "bf16"],
        &["--kv-dtype", "q8_0"],
        &["--quantize", "q8_0"],
    ] {
        assert_eq!(
            glm(&[&args[..], options].concat()).json()["usage"],
            plain["usage"],
            "{options:?}"
        );
    }
}

#[test]
fn the_model_may_come_from_the_environment() {
    let path = model("tiny-glm4");
    let run = Run::from(
        command(&["inspect", "--json"])
            .env("GLM_MODEL", &path)
            .output()
            .unwrap(),
    );
    assert_eq!(run.json()["path"], arg(&path));
}

#[test]
fn chat_answers_each_line_of_a_pipe() {
    let args = [
        "chat",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
        "--system",
        "Be brief.",
        "--thinking",
        "off",
    ];
    let two = glm_with_stdin(&args, "Hello\n\nAnd again?\n").ok();
    let one = glm_with_stdin(&args, "Hello\n").ok();
    assert!(one.ends_with('\n'));
    assert!(
        two.starts_with(&one) && two.len() > one.len(),
        "{two:?} does not go on from {one:?}"
    );
    // The second turn knows the first: alone it is answered from another prompt.
    let messages = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hello" }]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.json");
    fs::write(&file, messages.to_string()).unwrap();
    let prompt = glm(&["tokenize", "--chat", arg(&file), "--json"]).json();
    let answer = glm(&[
        "generate",
        "--prompt-ids",
        &ids(&prompt["token_ids"]),
        "--max-tokens",
        "4",
        "--temperature",
        "0",
    ])
    .ok();
    assert_eq!(answer.trim(), one.trim());
}

#[test]
fn thinking_can_be_shown_hidden_and_switched_off() {
    for how in ["show", "hide", "off"] {
        glm_with_stdin(&["chat", "--thinking", how, "--max-tokens", "2"], "Hello\n").ok();
    }
}

#[test]
fn tokenize_goes_there_and_back() {
    let text = "Hello, 世界! <|user|>";
    let encoded = glm(&["tokenize", text]).ok();
    assert_eq!(glm(&["tokenize", "--text", text]).ok(), encoded);
    assert_eq!(glm_with_stdin(&["tokenize"], text).ok(), encoded);
    assert_eq!(
        glm(&["tokenize", "--ids", encoded.trim()]).ok(),
        format!("{text}\n")
    );
    let report = glm(&["tokenize", text, "--json"]).json();
    assert_eq!(ids(&report["token_ids"]), encoded.trim());
    assert_eq!(
        report["count"],
        report["token_ids"].as_array().unwrap().len()
    );
    assert_eq!(
        report["pieces"].as_array().unwrap().last().unwrap(),
        "<|user|>"
    );
    let back = glm(&["tokenize", "--ids", encoded.trim(), "--json"]).json();
    assert_eq!(back["text"], text);
}

#[test]
fn tokenize_renders_a_conversation_with_tools() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.json");
    let tool = json!({ "type": "function", "function": { "name": "get_weather", "description": "Weather of a city",
        "parameters": { "type": "object", "properties": { "city": { "type": "string" } } } } });
    let messages = json!([{ "role": "user", "content": "Weather in Lyon?" }]);
    fs::write(
        &file,
        json!({ "messages": messages, "tools": [tool] }).to_string(),
    )
    .unwrap();
    let report = glm(&["tokenize", "--chat", arg(&file), "--json"]).json();
    let text = report["text"].as_str().unwrap();
    assert!(
        text.contains("get_weather") && text.contains("Weather in Lyon?"),
        "{text}"
    );
    assert_eq!(
        glm(&["tokenize", "--ids", &ids(&report["token_ids"])])
            .ok()
            .trim_end(),
        text.trim_end()
    );
    fs::write(&file, r#"{"messages": 3}"#).unwrap();
    assert!(
        glm(&["tokenize", "--chat", arg(&file)])
            .refused()
            .contains("messages")
    );
}

#[test]
fn inspect_every_kind_of_checkpoint() {
    let kinds = [
        ("tiny-glm4", "safetensors"),
        ("tiny-glm4/sharded", "safetensors"),
        ("tiny-chatglm3", "safetensors"),
        ("tiny-glm-edge/pytorch", "pytorch"),
        ("tiny-glm4/model-bf16.gguf", "gguf"),
        ("tiny-glm/model-00001-of-00002.gguf", "gguf"),
    ];
    for (name, format) in kinds {
        let path = model(name);
        let report = glm(&["inspect", "--json", "--model", arg(&path)]).json();
        assert_eq!(report["format"], format, "{name}");
        let tensors = report["tensors"].as_array().unwrap();
        let elements = |tensor: &Value| {
            tensor["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap())
                .product::<u64>()
        };
        assert_eq!(
            report["parameters"],
            tensors.iter().map(elements).sum::<u64>(),
            "{name}"
        );
        assert_eq!(report["memory"]["fits"], true, "{name}");
        let text = glm(&["inspect", "--tensors", "--model", arg(&path)]).ok();
        assert!(
            text.contains("fits here") && text.contains("model.embed_tokens.weight"),
            "{name}:\n{text}"
        );
    }
}

#[test]
fn inspect_tells_a_checkpoints_template_from_the_built_in_one() {
    for (name, own_template) in [("tiny-glm4", true), ("tiny-chatglm-glm4", false)] {
        let report = glm(&["inspect", "--json", "--model", arg(&model(name))]).json();
        assert_eq!(report["chat"]["own_template"], own_template, "{name}");
    }
}

#[test]
fn inspect_reckons_memory_for_a_context() {
    let memory = |options: &[&str]| {
        let report = glm(&[
            &[
                "inspect",
                "--model",
                "random:glm-4-9b",
                "--kv-dtype",
                "f16",
                "--json",
            ],
            options,
        ]
        .concat())
        .json();
        report["memory"].clone()
    };
    let short = memory(&["--max-model-len", "1024"]);
    let long = memory(&["--max-model-len", "4096"]);
    let bytes = |memory: &Value, item: &str| memory[item].as_u64().unwrap();
    assert_eq!(bytes(&long, "kv_cache"), 4 * bytes(&short, "kv_cache"));
    // 40 layers, 2 KV heads of 128, keys and values in two bytes each.
    assert_eq!(bytes(&short, "kv_bytes_per_token"), 40 * 2 * 128 * 2 * 2);
    let small = memory(&["--max-model-len", "1024", "--quantize", "q4_k"]);
    assert!(bytes(&small, "weights") < bytes(&short, "weights") / 2);
    let mixed = memory(&["--max-model-len", "1024", "--quantize", "q4_k_m"]);
    assert!(bytes(&small, "weights") < bytes(&mixed, "weights"));
    assert!(bytes(&mixed, "weights") < bytes(&short, "weights") / 2);
    let absurd = memory(&["--max-model-len", "100000000"]);
    assert_eq!(absurd["fits"], false);
    assert!(absurd["advice"].as_str().unwrap().contains("--quantize"));
}

#[test]
fn perplexity_of_a_text_and_of_ids() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    fs::write(
        &text,
        "The quick brown fox jumps over the lazy dog. ".repeat(4),
    )
    .unwrap();
    let report = glm(&["perplexity", "--file", arg(&text), "--json"]).json();
    let nll: Vec<f64> = report["nll"]
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect();
    assert_eq!(
        report["tokens"],
        nll.len(),
        "with a prefix before them, all tokens of a text are predicted"
    );
    let mean = nll.iter().sum::<f64>() / nll.len() as f64;
    assert!((report["mean_nll"].as_f64().unwrap() - mean).abs() < 1e-9);
    assert!((report["perplexity"].as_f64().unwrap() - mean.exp()).abs() < 1e-6 * mean.exp());
    assert!(
        glm(&["perplexity", "--file", arg(&text)])
            .ok()
            .contains("perplexity")
    );

    // The same tokens as a list, prefix included: only the first is not predicted.
    let raw = glm(&[
        "generate",
        "--raw",
        "--prompt-file",
        arg(&text),
        "--max-tokens",
        "1",
        "--json",
    ])
    .json();
    let list = folder.path().join("ids.json");
    fs::write(&list, raw["prompt_token_ids"].to_string()).unwrap();
    let of_ids = glm(&["perplexity", "--ids", arg(&list), "--json"]).json();
    let all = of_ids["nll"].as_array().unwrap();
    assert_eq!(
        all.len() + 1,
        raw["prompt_token_ids"].as_array().unwrap().len()
    );
    for (a, b) in all[all.len() - nll.len()..].iter().zip(&nll) {
        assert!((a.as_f64().unwrap() - b).abs() < 1e-4, "{a} {b}");
    }

    // The logits say the same.
    let logits = folder.path().join("logits");
    glm(&["perplexity", "--ids", arg(&list), "--logits", arg(&logits)]).ok();
    let bytes = fs::read(&logits).unwrap();
    let vocab_size = bytes.len() / 4 / (all.len() + 1);
    let row: Vec<f64> = bytes[..4 * vocab_size]
        .chunks_exact(4)
        .map(|word| f64::from(f32::from_le_bytes(word.try_into().unwrap())))
        .collect();
    let second = raw["prompt_token_ids"][1].as_u64().unwrap() as usize;
    let first_nll = row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[second];
    assert!((first_nll - all[0].as_f64().unwrap()).abs() < 1e-4);

    let windows = glm(&[
        "perplexity",
        "--ids",
        arg(&list),
        "--window",
        "16",
        "--json",
    ])
    .json();
    assert!(windows["scored"].as_u64().unwrap() < all.len() as u64);
}

#[test]
fn quantize_writes_a_model_that_answers_like_the_one_quantised_while_loading() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("demo.gguf");
    let quantize = ["quantize", "--format", "q8_0", "--output", arg(&output)];
    let report = glm(&[&quantize[..], &["--json"]].concat()).json();
    assert_eq!(report["format"], "q8_0");
    assert!(report["bytes"].as_u64().unwrap() < fs::metadata(&output).unwrap().len());
    let rest = [
        "generate",
        "--prompt",
        "Hello",
        "--max-tokens",
        "16",
        "--temperature",
        "0",
        "--ignore-eos",
        "--json",
    ];
    let written = glm(&[&rest[..], &["--model", arg(&output)]].concat()).json();
    let loaded = glm(&[&rest[..], &["--quantize", "q8_0"]].concat()).json();
    assert_eq!(
        written["prompt_token_ids"], loaded["prompt_token_ids"],
        "tokenizer and template survive"
    );
    assert_eq!(written["token_ids"], loaded["token_ids"]);

    let line = glm(&quantize).refused();
    assert!(
        line.contains("exists already") && line.contains("--force"),
        "{line}"
    );
    glm(&[&quantize[..], &["--force"]].concat()).ok();
    assert_eq!(
        common::listing(folder.path()).len(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn quantize_reads_every_kind_of_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "tiny-glm",
        "tiny-glm4/sharded",
        "tiny-chatglm3",
        "tiny-chatglm-glm4",
        "tiny-glm4/model-bf16.gguf",
    ] {
        let output = folder.path().join("out.gguf");
        let path = model(name);
        glm(&[
            "quantize",
            "--model",
            arg(&path),
            "--format",
            "bf16",
            "--output",
            arg(&output),
            "--force",
        ])
        .ok();
        let before = glm(&["inspect", "--json", "--model", arg(&path)]).json();
        let after = glm(&["inspect", "--json", "--model", arg(&output)]).json();
        assert_eq!(after["parameters"], before["parameters"], "{name}");
        assert_eq!(
            after["config"]["hidden_size"], before["config"]["hidden_size"],
            "{name}"
        );
        assert_eq!(
            after["tokenizer"]["prefix"], before["tokenizer"]["prefix"],
            "{name}"
        );
    }
}

/// Renaming the finished file to a device or a pipe would put a file in its place.
#[cfg(unix)]
#[test]
fn quantize_replaces_nothing_but_files() {
    use std::os::unix::fs::FileTypeExt;

    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    common::make_pipe(&pipe);
    for force in [&["--force"][..], &[]] {
        let output = ["quantize", "--format", "q8_0", "--output", arg(&pipe)];
        let line = glm(&[&output, force].concat()).refused();
        assert!(line.contains("not a regular file"), "{line}");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }
}

#[test]
fn quantising_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let source = model("tiny-glm4/model-q8_0.gguf");
    let line = glm(&[
        "quantize",
        "--model",
        arg(&source),
        "--format",
        "q4_0",
        "--output",
        arg(&output),
    ])
    .refused();
    assert!(line.contains("quantised already"), "{line}");
    assert_eq!(common::listing(folder.path()), []);
    glm(&[
        "quantize",
        "--model",
        arg(&source),
        "--format",
        "f16",
        "--output",
        arg(&output),
    ])
    .ok();
}

#[test]
fn bench_measures_what_it_is_asked() {
    let args = [
        "bench",
        "--prompt-tokens",
        "8,32",
        "--gen-tokens",
        "4",
        "--batch",
        "1,3",
        "--depth",
        "0,40",
        "--repeat",
        "2",
    ];
    let report = glm(&[&args[..], &["--json"]].concat()).json();
    let prefill = report["prefill"].as_array().unwrap();
    assert_eq!(
        prefill
            .iter()
            .map(|p| (p["depth"].as_u64().unwrap(), p["tokens"].as_u64().unwrap()))
            .collect::<Vec<_>>(),
        [(0, 8), (0, 32), (40, 8), (40, 32)]
    );
    let decode = report["decode"].as_array().unwrap();
    let cases: Vec<_> = decode
        .iter()
        .map(|d| (d["depth"].as_u64().unwrap(), d["batch"].as_u64().unwrap()))
        .collect();
    assert_eq!(cases, [(0, 1), (0, 3), (40, 1), (40, 3)]);
    for entry in prefill.iter().chain(decode) {
        let number = |key: &str| entry[key].as_f64().unwrap();
        assert!(
            number("tok_s_min") > 0.0 && number("tok_s_min") <= number("tok_s"),
            "{entry}"
        );
        assert!(number("tok_s") <= number("tok_s_max"), "{entry}");
    }
    assert!(
        decode
            .iter()
            .all(|d| d["gb_s"].as_f64().unwrap() > 0.0 && d["itl_ms"].as_f64().unwrap() > 0.0)
    );
    assert!(report["machine"]["bandwidth_gb_s"].as_f64().unwrap() > 0.0);
    let text = glm(&args).ok();
    assert!(
        text.contains("prefill") && text.contains("decode") && text.contains("GB/s"),
        "{text}"
    );
}

#[test]
fn bench_says_where_the_time_goes() {
    let args = ["bench", "--prompt-tokens", "32", "--gen-tokens", "8"];
    let args = [&args[..], &["--repeat", "1", "--profile"]].concat();
    let report = glm(&[&args[..], &["--json"]].concat()).json();
    for result in [&report["prefill"][0], &report["decode"][0]] {
        let rows = result["profile"]["rows"].as_array().unwrap();
        let names: Vec<_> = rows
            .iter()
            .map(|row| row["name"].as_str().unwrap())
            .collect();
        for name in [
            "qkv_proj",
            "lm_head",
            "paged_attention",
            "sample",
            "rest of a step",
        ] {
            assert!(
                names.iter().any(|found| found.contains(name)),
                "{name}: {names:?}"
            );
        }
        let shares: f64 = rows.iter().map(|row| row["share"].as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-6, "{shares}");
    }
    let text = glm(&args).ok();
    assert!(
        text.contains("qkv_proj") && text.contains("per step"),
        "{text}"
    );
}

#[test]
fn bench_answers_queries_on_stdin() {
    let queries = r#"{"measure": "decode", "batch": 2, "gen_tokens": 4}
{"measure": "prefill", "tokens": 16, "depth": 32}
{"measure": "prefill", "tokens": 1000000}
nonsense
{"measure": "memory"}
"#;
    let args = [
        "bench",
        "--stdin",
        "--batch",
        "2",
        "--depth",
        "32",
        "--prompt-tokens",
        "16",
    ];
    let lines = glm_with_stdin(&args, queries).ok();
    let answers: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [about, decode, prefill, too_long, nonsense, memory] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(about["model"]["name"], "demo");
    assert!(decode["tok_s"].as_f64().unwrap() > 0.0 && decode["batch"] == 2);
    assert!(prefill["tok_s"].as_f64().unwrap() > 0.0 && prefill["depth"] == 32);
    assert!(
        too_long["error"]
            .as_str()
            .unwrap()
            .contains("1000000 prompt tokens")
    );
    assert!(nonsense["error"].as_str().unwrap().contains("not a query"));
    assert_eq!(memory["measure"], "memory");
}

#[test]
fn bench_refuses_what_does_not_fit() {
    let line = glm(&["bench", "--max-model-len", "64", "--prompt-tokens", "128"]).refused();
    assert!(line.contains("--max-model-len"), "{line}");
}

#[test]
fn doctor_finds_the_machine_and_the_model_usable() {
    let report = glm(&["doctor", "--json"]).json();
    assert_eq!(report["ok"], true, "{report}");
    let names: Vec<_> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    for name in [
        "isa", "threads", "memory", "cuda", "hub", "model", "kv cache",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    let text = glm(&["doctor", "--max-model-len", "64"]).ok();
    assert!(text.contains("model"));
    assert!(text.contains("blocks x 16 tokens x "), "{text}");
}

#[test]
fn doctor_says_how_to_mend() {
    let run = Run::from(
        command(&["doctor"])
            .env("GLM_ISA", "sse9")
            .output()
            .unwrap(),
    );
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(
        run.stdout.contains("to mend: unset GLM_ISA"),
        "{}",
        run.stdout
    );
    let run = glm(&["doctor", "--model", "/no/such/model"]);
    assert_eq!(run.code, Some(2), "{run:#?}");
    assert!(
        run.stdout.contains("isa"),
        "the machine is checked all the same: {}",
        run.stdout
    );
}

#[test]
fn nothing_is_coloured_in_a_pipe() {
    for args in [
        &["inspect"][..],
        &["doctor"],
        &["generate", "--model", "/no/such"],
    ] {
        let run = glm(args);
        assert!(
            !run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}'),
            "{run:?}"
        );
    }
}
