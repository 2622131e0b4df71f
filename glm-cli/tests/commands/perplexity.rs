//! `perplexity`, of texts and of ids.

use std::fs;

use crate::common::{arg, glm};

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
