//! `doctor`: what it finds, and how to mend it.

use crate::common::{Run, command, glm};

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
