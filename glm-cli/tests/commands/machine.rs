//! What holds for every command: the options of the machine, the environment, pipes.

use crate::common::{Run, arg, command, glm, model};

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
    // These may say something else; they say as much of it.
    let args = [&args[..], &["--ignore-eos"]].concat();
    let plain = glm(&args).json();
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
