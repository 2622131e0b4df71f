//! A limit on what an answer thinks, on the real model.

use glm_runtime::{
    BeamOptions, Completion, Engine, EngineHandle, GenerateOptions, Grammar, Request,
    SamplingParams,
};

const CLOSE: &str = "</think>";

fn engine() -> EngineHandle {
    Engine::builder("demo").build().unwrap()
}

/// The answer to a prompt that has opened a thought, which the model does not end of itself.
fn think(engine: &EngineHandle, options: GenerateOptions) -> Completion {
    let close = *engine.encode(CLOSE).unwrap().last().unwrap();
    let prompt = engine.encode("<|user|>\nWhat is 3 + 4?<|assistant|>\n<think>");
    let options = GenerateOptions {
        sampling: SamplingParams {
            logit_bias: [(close, -100.0)].into(),
            ..SamplingParams::greedy()
        },
        max_tokens: Some(24),
        ignore_eos: options.grammar.is_none(),
        skip_special_tokens: false,
        ..options
    };
    let request = Request::new(prompt.unwrap()).with_options(options);
    engine.submit(request).unwrap().wait().unwrap()
}

fn limited(max_thinking_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_thinking_tokens: Some(max_thinking_tokens),
        ..GenerateOptions::default()
    }
}

/// The text from token number `at` on.
fn text_from(answer: &Completion, at: usize) -> String {
    answer.tokens[at..]
        .iter()
        .map(|t| t.text.as_str())
        .collect()
}

#[test]
fn a_thought_ends_at_its_limit_and_the_answer_goes_on() {
    let engine = engine();
    let free = think(&engine, GenerateOptions::default());
    for limit in [0, 1, 5] {
        assert!(!text_from(&free, limit).starts_with(CLOSE), "{}", free.text);
        let answer = think(&engine, limited(limit));
        // Up to there it is the answer without a limit.
        for (token, free) in answer.tokens.iter().zip(&free.tokens).take(limit) {
            assert_eq!(token.id, free.id);
        }
        let rest = text_from(&answer, limit);
        assert!(rest.starts_with(CLOSE), "{limit}: {}", answer.text);
        assert_eq!(answer.tokens.len(), 24);
    }
    assert_eq!(think(&engine, limited(1000)).text, free.text);
}

#[test]
fn behind_the_thought_comes_what_a_grammar_wants() {
    let engine = engine();
    let choice = Grammar::Choice(vec!["seven".to_owned(), "eight".to_owned()]);
    let options = GenerateOptions {
        grammar: Some(choice),
        ..limited(3)
    };
    let answer = think(&engine, options);
    let rest = text_from(&answer, 3);
    let said = rest
        .strip_prefix(CLOSE)
        .unwrap_or_else(|| panic!("{}", answer.text));
    assert!(["seven", "eight"].contains(&said.trim()), "{said}");
}

#[test]
fn an_answer_that_does_not_think_is_as_without_a_limit() {
    let engine = engine();
    let say = |max_thinking_tokens| {
        let options = GenerateOptions {
            sampling: SamplingParams::greedy(),
            max_tokens: Some(12),
            max_thinking_tokens,
            ..GenerateOptions::default()
        };
        let prompt = engine.encode("The capital of France is").unwrap();
        let request = Request::new(prompt).with_options(options);
        engine.submit(request).unwrap().wait().unwrap().text
    };
    assert_eq!(say(Some(0)), say(None));
}

#[test]
fn beams_have_no_limit() {
    let options = GenerateOptions {
        sampling: SamplingParams::greedy(),
        ..limited(3)
    };
    let refused = engine().beam_search("Hi", BeamOptions::default(), options);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("max_thinking_tokens"), "{refused}");
}
