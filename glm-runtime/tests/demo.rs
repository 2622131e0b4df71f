//! The embedded model in a conversation whose beginning is cached: what it was told is not computed again, and not forgotten.

use glm_runtime::{
    ChatOptions, Completion, Engine, EngineHandle, GenerateOptions, Message, SamplingParams,
};

fn engine(prefix_cache: bool) -> EngineHandle {
    Engine::builder("demo")
        .prefix_cache(prefix_cache)
        .build()
        .unwrap()
}

fn answer(engine: &EngineHandle, turns: &[Message]) -> Completion {
    let generate = GenerateOptions {
        sampling: SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        },
        max_tokens: Some(64),
        ..GenerateOptions::default()
    };
    let options = ChatOptions {
        generate,
        ..ChatOptions::default()
    };
    engine
        .chat(turns.to_vec(), options)
        .unwrap()
        .wait()
        .unwrap()
}

/// Says each text in turn; what was answered, and how much of each prompt came from the cache.
fn converse(engine: &EngineHandle, texts: &[&str]) -> Vec<(String, usize)> {
    let mut turns = Vec::new();
    let mut answers = Vec::new();
    for text in texts {
        turns.push(Message::user(*text));
        let completion = answer(engine, &turns);
        let text = completion.text.trim().to_owned();
        turns.push(Message::text("assistant", text.clone()));
        answers.push((text, completion.finished.usage.cached_tokens));
    }
    answers
}

#[test]
fn a_conversation_is_remembered_over_a_prefix_cache_hit() {
    let texts = [
        "My name is Maria.",
        "What is the capital of Italy?",
        "What colour is a banana?",
        "What is my name?",
    ];
    let cached = converse(&engine(true), &texts);
    assert!(cached[1].0.contains("Rome"), "{cached:?}");
    assert!(cached[2].0.contains("yellow"), "{cached:?}");
    assert!(cached[3].0.contains("Maria"), "{cached:?}");
    assert!(
        cached[3].1 > cached[1].1,
        "a longer beginning is cached: {cached:?}"
    );
    assert!(cached[3].1 >= 32, "{cached:?}");

    let cold = converse(&engine(false), &texts);
    assert!(cold.iter().all(|(_, cached_tokens)| *cached_tokens == 0));
    let texts = |answers: Vec<(String, usize)>| {
        answers
            .into_iter()
            .map(|(text, _)| text)
            .collect::<Vec<_>>()
    };
    assert_eq!(texts(cached), texts(cold));
}
