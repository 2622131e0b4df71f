//! Text at the edges of the engine: prompts, chats, stop strings and what a model without a tokenizer can do.

use glm_runtime::{
    ChatOptions, Engine, EngineError, EngineHandle, ErrorKind, Event, FinishReason,
    GenerateOptions, Message, Prompt, Request, RequestStream,
};

mod common;
use common::tiny;

fn engine(model: &str) -> EngineHandle {
    Engine::builder(tiny(model).to_str().unwrap())
        .offline(true)
        .build()
        .unwrap()
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

#[test]
fn the_prefix_of_the_tokenizer_is_added_once() {
    let engine = engine("tiny-glm");
    let prefix = engine.tokenizer().unwrap().prefix().to_vec();
    assert!(!prefix.is_empty());
    let with = engine
        .generate("[gMASK]<sop>Hello", options(1))
        .unwrap()
        .prompt_token_ids()
        .to_vec();
    let without = engine
        .generate("Hello", options(1))
        .unwrap()
        .prompt_token_ids()
        .to_vec();
    assert_eq!(with, without);
    assert!(with.starts_with(&prefix) && !with[prefix.len()..].starts_with(&prefix));
    let ids = engine
        .generate(Prompt::TokenIds(vec![1, 2]), options(1))
        .unwrap();
    assert_eq!(ids.prompt_token_ids(), [1, 2]);
}

#[test]
fn the_pieces_of_an_answer_are_the_decoded_answer() {
    let engine = engine("tiny-glm");
    let completion = engine
        .generate("Hello", options(48))
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(completion.tokens.len(), 48);
    let tokenizer = engine.tokenizer().unwrap();
    assert_eq!(
        completion.text,
        tokenizer.decode(&completion.token_ids(), true)
    );
    let texts: Result<String, EngineError> = engine
        .generate("Hello", options(48))
        .unwrap()
        .texts()
        .collect();
    assert_eq!(texts.unwrap(), completion.text);
}

#[test]
fn any_stop_string_ends_the_text_right_before_it() {
    let engine = engine("tiny-glm");
    let whole = engine
        .generate("Hello", options(48))
        .unwrap()
        .wait()
        .unwrap();
    let characters: Vec<(usize, char)> = whole.text.char_indices().collect();
    // Stop strings of one to five characters from all over the answer: inside a token, across tokens, across characters.
    for (start, len) in (0..characters.len().saturating_sub(5))
        .step_by(3)
        .zip((1..=5).cycle())
    {
        let stop = whole.text[characters[start].0..characters[start + len].0].to_owned();
        let options = GenerateOptions {
            stop: vec![stop.clone()],
            ..options(48)
        };
        let stopped = engine.generate("Hello", options).unwrap().wait().unwrap();
        let expected = &whole.text[..whole.text.find(&stop).unwrap()];
        assert_eq!(stopped.text, expected, "stop string {stop:?}");
        assert_eq!(stopped.finished.reason, FinishReason::Stop);
        assert!(stopped.tokens.len() <= whole.tokens.len());
        assert_eq!(
            stopped.finished.usage.completion_tokens,
            stopped.tokens.len()
        );
    }
}

#[test]
fn a_stop_string_does_not_end_an_answer_before_its_fewest_tokens() {
    let engine = engine("tiny-glm");
    let whole = engine
        .generate("Hello", options(48))
        .unwrap()
        .wait()
        .unwrap();
    let stop = whole.text.chars().next().unwrap().to_string();
    for min_tokens in [0, 5, 20] {
        let options = GenerateOptions {
            stop: vec![stop.clone()],
            min_tokens,
            ..options(48)
        };
        let stopped = engine.generate("Hello", options).unwrap().wait().unwrap();
        assert!(stopped.tokens.len() > min_tokens);
        assert!(whole.text.starts_with(&stopped.text));
        assert_eq!(stopped.text.is_empty(), min_tokens == 0);
    }
}

#[test]
fn a_stop_token_ends_the_answer_and_is_not_in_its_text() {
    let engine = engine("tiny-glm");
    let whole = engine
        .generate("Hello", options(12))
        .unwrap()
        .wait()
        .unwrap();
    let ids = whole.token_ids();
    // The id that appears for the first time last.
    let first = |id: &u32| ids.iter().position(|other| other == id);
    let stop = *ids.iter().max_by_key(|id| first(id)).unwrap();
    let options = GenerateOptions {
        stop_token_ids: vec![stop],
        ..options(12)
    };
    let stopped = engine.generate("Hello", options).unwrap().wait().unwrap();
    assert_eq!(stopped.token_ids().last(), Some(&stop));
    assert_eq!(stopped.finished.reason, FinishReason::Stop);
    let before = &stopped.token_ids()[..stopped.tokens.len() - 1];
    assert_eq!(
        stopped.text,
        engine.tokenizer().unwrap().decode(before, true)
    );
}

#[test]
fn a_chat_is_the_template_and_then_the_same_engine() {
    for model in [
        "tiny-glm",
        "tiny-glm4",
        "tiny-chatglm3",
        "tiny-chatglm-glm4",
    ] {
        let engine = engine(model);
        let options = ChatOptions {
            generate: options(8),
            ..ChatOptions::default()
        };
        let messages = || [Message::text("system", "Be short."), Message::user("Hi")];
        let chat = engine.chat(messages(), options).unwrap();
        let prompt = chat.prompt_token_ids().to_vec();
        assert!(prompt.len() > 4, "{model}");
        let again = engine
            .generate(prompt, self::options(8))
            .unwrap()
            .wait()
            .unwrap();
        let answer = chat.wait().unwrap();
        assert_eq!(answer.token_ids(), again.token_ids(), "{model}");
        assert_eq!(answer.text, again.text, "{model}");
    }
}

#[test]
fn logprobs_come_with_every_token_that_asks_for_them() {
    let engine = engine("tiny-glm");
    let mut options = options(6);
    options.sampling.logprobs = Some(3);
    for event in engine.generate("Hello", options).unwrap() {
        if let Event::Token(token) = event {
            assert_eq!(token.top_logprobs.len(), 3);
            // Greedy: the chosen token is the most likely one.
            assert_eq!(
                (
                    token.top_logprobs[0].id,
                    Some(token.top_logprobs[0].logprob)
                ),
                (token.id, token.logprob)
            );
        }
    }
}

#[test]
fn several_answers_to_one_prompt_differ_by_their_seeds() {
    let engine = engine("tiny-glm");
    let mut options = options(8);
    options.sampling.temperature = 2.0;
    options.sampling.seed = Some(5);
    let request = Request::new(vec![3; 40]).with_options(options);
    let ids = |stream: RequestStream| stream.wait().unwrap().token_ids();
    let answers = engine.submit_n(request.clone(), 3).unwrap();
    let answers: Vec<_> = answers.into_iter().map(ids).collect();
    assert_eq!(answers[0], ids(engine.submit(request.clone()).unwrap()));
    let mut next = request;
    next.options.sampling.seed = Some(7);
    assert_eq!(answers[2], ids(engine.submit(next).unwrap()));
    assert_ne!(answers[0], answers[1]);
}

#[test]
fn a_model_without_a_tokenizer_runs_in_token_ids() {
    let engine = engine("tiny-glm-edge/pytorch");
    assert!(!engine.model_info().has_tokenizer);
    let completion = engine
        .generate(vec![1, 2, 3], options(4))
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!((completion.tokens.len(), completion.text.as_str()), (4, ""));
    let stop = GenerateOptions {
        stop: vec!["x".to_owned()],
        ..options(4)
    };
    for error in [
        engine.generate("text", options(4)).unwrap_err(),
        engine.generate(vec![1], stop).unwrap_err(),
        engine
            .chat([Message::user("Hi")], ChatOptions::default())
            .unwrap_err(),
    ] {
        assert!(matches!(error, EngineError::NoTokenizer { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
}

#[test]
fn options_out_of_range_are_refused_with_the_range() {
    let build = || Engine::builder(tiny("tiny-glm").to_str().unwrap());
    let error = |result: Result<Engine, glm_runtime::BuildError>| result.unwrap_err().to_string();
    assert!(error(build().max_model_len(1 << 40).build_engine()).contains("1099511627776"));
    assert!(
        error(build().max_num_seqs(0).build_engine()).contains("max_num_seqs must be at least 1")
    );
    assert!(
        error(build().max_num_batched_tokens(0).build_engine()).contains("max_num_batched_tokens")
    );
    assert!(error(build().kv_cache_tokens(1).build_engine()).contains("kv_cache_tokens"));
    assert!(error(build().device("tpu".to_owned()).build_engine()).contains("tpu"));
    assert!(
        error(
            build()
                .quantize("q2_k".parse::<glm_runtime::Quantization>().unwrap())
                .build_engine()
        )
        .contains("q4_k_m")
    );
    assert!(error(Engine::builder("random:nothing").build_engine()).contains("glm-edge-1.5b"));
}
