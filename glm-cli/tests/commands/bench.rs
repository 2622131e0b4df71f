//! `bench`: what it measures, and what it refuses.

use crate::common::{glm, glm_with_stdin};

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
