//! `--speculate`: other ways to the same answer.

mod common;

use common::{glm, model};

fn generate(model: &str, args: &[&str]) -> common::Run {
    let prompt = "5,6,7,8,5,6,7,8,5,6";
    let rest = ["generate", "--model", model, "--prompt-ids", prompt];
    let more = [
        "--max-tokens",
        "40",
        "--ignore-eos",
        "--json",
        "--logprobs",
        "0",
    ];
    glm(&[&rest, args, &more].concat())
}

#[test]
fn answers_are_the_same_however_they_are_guessed() {
    let path = model("tiny-glm4");
    let path = path.to_str().unwrap();
    let draft = format!("draft={path}");
    for sampling in [["--temperature", "0"], ["--temperature", "0.7"]] {
        let ask = |args: &[&str]| {
            let args = [args, &sampling, &["--seed", "3"]].concat();
            generate(path, &args).json()
        };
        let expected = ask(&[]);
        assert!(expected.get("speculation").is_none());
        for args in [
            &["--speculate", "off"][..],
            &["--speculate", "ngram"],
            &["--speculate", &draft, "--draft-tokens", "3"],
        ] {
            let answer = ask(args);
            assert_eq!(answer["token_ids"], expected["token_ids"], "{args:?}");
            assert_eq!(answer["logprobs"], expected["logprobs"], "{args:?}");
            assert_eq!(answer["usage"], expected["usage"], "{args:?}");
            let counts = &answer["speculation"];
            let [drafted, accepted] =
                ["drafted_tokens", "accepted_tokens"].map(|name| counts[name].as_u64().unwrap());
            assert!(accepted <= drafted, "{counts}");
        }
    }
}

#[test]
fn a_draft_model_that_cannot_guess_is_a_wrong_argument() {
    let path = model("tiny-glm4");
    let other = format!("draft={}", model("tiny-chatglm3").display());
    let refused = |how: &str| generate(path.to_str().unwrap(), &["--speculate", how]).refused();
    assert!(refused(&other).contains("vocabular"));
    assert!(refused("draft=/no/such").contains("/no/such"));
    // Clap says more than one line.
    let wrong = generate(path.to_str().unwrap(), &["--speculate", "magic"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("draft=MODEL"), "{}", wrong.stderr);
}
