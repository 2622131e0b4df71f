//! Structured output through the whole engine: random models, sampled hot, must still answer in the form asked for.

use glm_runtime::{
    ChatOptions, Completion, Engine, EngineError, EngineHandle, ErrorKind, FinishReason,
    GenerateOptions, Grammar, GrammarError, Message, Part, Prompt, Request, SamplingParams,
};
use serde_json::{Value, json};

mod common;
use common::tiny;

fn engine(model: &str) -> EngineHandle {
    Engine::builder(tiny(model).to_str().unwrap())
        .offline(true)
        .build()
        .unwrap()
}

/// Every token about as likely as any other: nothing but the grammar gives the answer its form.
fn options(grammar: Grammar, seed: u64) -> GenerateOptions {
    GenerateOptions {
        grammar: Some(grammar),
        max_tokens: Some(200),
        sampling: SamplingParams {
            temperature: 3.0,
            seed: Some(seed),
            ..SamplingParams::default()
        },
        ..GenerateOptions::default()
    }
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "minLength": 1, "maxLength": 6 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "tags": { "type": "array", "items": { "enum": ["a", "b"] }, "maxItems": 2 }
        },
        "required": ["name", "age"],
        "additionalProperties": false
    })
}

fn choice(texts: &[&str]) -> Grammar {
    Grammar::Choice(texts.iter().map(|&text| text.to_owned()).collect())
}

fn ask(engine: &EngineHandle, options: GenerateOptions) -> Completion {
    engine.generate("Hello", options).unwrap().wait().unwrap()
}

#[test]
fn answers_satisfy_their_schema_greedy_and_sampled_alone_and_together() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for model in ["tiny-glm4", "tiny-chatglm3"] {
        let engine = engine(model);
        let of = |seed| {
            let mut options = options(Grammar::JsonSchema(schema()), seed);
            options.sampling.temperature = seed.min(3) as f32;
            options
        };
        let together: Vec<_> = (0..12)
            .map(|seed| engine.generate("Hello", of(seed)).unwrap())
            .collect();
        for (seed, stream) in together.into_iter().enumerate() {
            let answer = stream.wait().unwrap();
            assert_eq!(
                ask(&engine, of(seed as u64)).token_ids(),
                answer.token_ids()
            );
            if answer.finished.reason == FinishReason::Stop {
                let value: Value = serde_json::from_str(&answer.text).unwrap();
                assert!(validator.is_valid(&value), "{model}: {}", answer.text);
            } else {
                // A greedy random model may repeat blanks or a digit for long, never what the schema forbids.
                assert!(answer.text.trim_start().starts_with('{'), "{}", answer.text);
            }
        }
    }
}

#[test]
fn preemption_changes_nothing() {
    let path = tiny("tiny-glm4");
    let build = |tokens| {
        Engine::builder(path.to_str().unwrap())
            .offline(true)
            .kv_cache_tokens(tokens)
            .max_model_len(128)
            .build()
            .unwrap()
    };
    let of = |seed| options(Grammar::Regex("[a-z]{30,60}".to_owned()), seed);
    let answers = |engine: &EngineHandle| -> Vec<Vec<u32>> {
        let streams: Vec<_> = (0..6)
            .map(|seed| engine.generate("Hello", of(seed)).unwrap())
            .collect();
        let wait = |stream: glm_runtime::RequestStream| stream.wait().unwrap().token_ids();
        streams.into_iter().map(wait).collect()
    };
    let (tight, roomy) = (build(Some(128)), build(Some(4096)));
    assert_eq!(answers(&tight), answers(&roomy));
    assert!(tight.stats().preemptions > 0);
}

#[test]
fn choices_and_expressions_end_by_themselves() {
    let engine = engine("tiny-glm4");
    for seed in 0..8 {
        let answer = ask(&engine, options(choice(&["yes", "no", "perhaps"]), seed));
        assert!(["yes", "no", "perhaps"].contains(&&*answer.text));
        assert_eq!(answer.finished.reason, FinishReason::Stop);
        let mut endless = options(Grammar::Regex(r"[0-9]{2}:[0-9]{2}".to_owned()), seed);
        (endless.ignore_eos, endless.min_tokens) = (true, 100);
        let answer = ask(&engine, endless);
        assert_eq!((answer.text.len(), &answer.text[2..3]), (5, ":"));
        assert_eq!(answer.finished.reason, FinishReason::Stop);
    }
}

#[test]
fn an_answer_cut_short_says_so() {
    let engine = engine("tiny-glm4");
    let grammar = || Grammar::Regex("[a-e]{40}".to_owned());
    let mut short = options(grammar(), 1);
    short.max_tokens = Some(3);
    let answer = ask(&engine, short);
    assert_eq!(answer.finished.reason, FinishReason::Length);
    assert!(answer.text.len() < 40);
    let whole = ask(&engine, options(grammar(), 1)).text;
    let mut stopped = options(grammar(), 1);
    stopped.stop = vec![whole[4..6].to_owned()];
    let answer = ask(&engine, stopped);
    assert_eq!(answer.finished.reason, FinishReason::Stop);
    assert_eq!(answer.text, whole[..whole.find(&whole[4..6]).unwrap()]);
}

#[test]
fn a_chat_that_thinks_is_free_until_it_has_thought() {
    let engine = engine("tiny-glm4-nobias");
    let tokenizer = engine.tokenizer().unwrap();
    let close = tokenizer.token_to_id("</think>").unwrap();
    let mut prompt = engine.encode("Hello<|assistant|>\n<think>").unwrap();
    for seed in 0..6 {
        let mut options = options(choice(&["yes", "no"]), seed);
        // A random model would think for ever.
        options.sampling.logit_bias = [(close, 8.0)].into();
        let answer = engine
            .generate(Prompt::TokenIds(prompt.clone()), options)
            .unwrap();
        let answer = answer.wait().unwrap();
        assert_eq!(answer.finished.reason, FinishReason::Stop);
        let text = tokenizer.decode(&answer.token_ids(), true);
        let (_, said) = text.split_once("</think>").unwrap();
        assert!(matches!(said.trim(), "yes" | "no"), "{text}");
    }
    prompt.push(close);
    let answer = engine
        .generate(prompt, options(choice(&["yes"]), 0))
        .unwrap();
    assert_eq!(answer.wait().unwrap().text, "yes");
}

#[test]
fn what_a_grammar_is_about_can_be_told_from_the_thought_before_it() {
    let engine = engine("tiny-glm4");
    let tokenizer = engine.tokenizer().unwrap();
    let id = |text| tokenizer.token_to_id(text).unwrap();
    let [hello, assistant, open, close] = ["H", "<|assistant|>", "<think>", "</think>"].map(id);
    let line_end = engine.encode("\n").unwrap().pop().unwrap();
    let ask = |prompt: &[u32], bias: (u32, f32), seed| {
        let mut options = options(choice(&["yes", "no"]), seed);
        options.sampling.logit_bias = [bias].into();
        let stream = engine.generate(Prompt::TokenIds(prompt.to_vec()), options);
        stream.unwrap().wait().unwrap()
    };
    let is_choice = |text: &str| matches!(text, "yes" | "no");
    for seed in 0..4 {
        let turn = [hello, assistant];
        let same_line = ask(&turn, (line_end, -90.0), seed);
        assert!(is_choice(&same_line.text), "{}", same_line.text);
        let next_line = ask(&turn, (line_end, 90.0), seed);
        assert_eq!(next_line.tokens[0].part, Part::Format);
        assert!(is_choice(&next_line.text), "{}", next_line.text);
        let thought = ask(&[hello, assistant, open], (close, 8.0), seed);
        assert_eq!(thought.tokens[0].part, Part::Thought);
        assert!(is_choice(&thought.text_of(Part::Answer)));
        let parts = [Part::Thought, Part::Answer].map(|part| thought.text_of(part));
        assert_eq!(parts.concat(), thought.text);
    }
}

#[test]
fn chats_take_a_grammar_and_answers_to_one_prompt_differ() {
    let engine = engine("tiny-glm4-nobias");
    let chat = ChatOptions {
        generate: options(Grammar::Regex("[a-z]{12}".to_owned()), 5),
        ..ChatOptions::default()
    };
    let stream = engine.chat([Message::user("Hi")], chat.clone()).unwrap();
    let prompt = stream.prompt_token_ids().to_vec();
    let request = Request::new(prompt).with_options(chat.generate);
    let first = stream.wait().unwrap();
    let answers = engine.submit_n(request, 3).unwrap();
    let answers: Vec<_> = answers.into_iter().map(|s| s.wait().unwrap()).collect();
    assert_eq!(answers[0].token_ids(), first.token_ids());
    assert_ne!(answers[0].text, answers[1].text);
    assert!(
        answers
            .iter()
            .all(|a| a.finished.reason == FinishReason::Stop)
    );
}

#[test]
fn log_probabilities_are_the_models_own() {
    let engine = engine("tiny-glm4");
    let mut options = options(choice(&["Z"]), 0);
    options.sampling.logprobs = Some(1);
    let answer = ask(&engine, options);
    let token = &answer.tokens[0];
    assert!(token.logprob.unwrap() < token.top_logprobs[0].logprob);
}

#[test]
fn what_cannot_be_followed_is_refused_at_once() {
    let engine = engine("tiny-glm4");
    let refused = |grammar| engine.generate("Hello", options(grammar, 0)).unwrap_err();
    let error = refused(Grammar::Regex("(".to_owned()));
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(matches!(
        error,
        EngineError::Grammar(GrammarError::Invalid { .. })
    ));
    let error = refused(choice(&[]));
    assert!(matches!(
        error,
        EngineError::Grammar(GrammarError::NoChoice)
    ));
    let untold = Engine::builder("random:tiny-9m").build().unwrap();
    let error = untold.generate(vec![1], options(Grammar::JsonObject, 0));
    assert!(matches!(error, Err(EngineError::NoTokenizer { .. })));
}
