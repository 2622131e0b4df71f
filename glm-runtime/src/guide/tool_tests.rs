//! Calls drawn at random from what the masks allow, read as a client would read them: their arguments must satisfy the schema.

use glm_core::Checkpoint;
use glm_core::chat::{Answer, AnswerParser, CallFormat};
use glm_core::tokenizer::SpecialTokens;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{Rng, VOCAB, factory};
use super::*;

const TAGGED: [CallFormat; 2] = [
    CallFormat::Tagged { lines: true },
    CallFormat::Tagged { lines: false },
];

fn weather() -> Value {
    json!({
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"enum": ["°C", "K"]},
            "code": {"$ref": "#/$defs/code"},
            "name": {"type": "string", "minLength": 1, "maxLength": 3},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "note": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
            "area": {
                "type": "object",
                "properties": {"x": {"type": "number", "minimum": 0, "maximum": 9}, "on": {"type": "boolean"}},
                "required": ["x"],
                "additionalProperties": false,
            },
        },
        "required": ["days", "city"],
        "additionalProperties": false,
        "$defs": {"code": {"type": "string", "pattern": "^[a-c]{2}/$"}},
    })
}

fn tool(name: &str, parameters: Value) -> Value {
    json!({"type": "function", "function": {"name": name, "strict": true, "parameters": parameters}})
}

fn tools() -> Vec<Value> {
    let empty = json!({"type": "object", "properties": {}, "additionalProperties": false});
    vec![
        tool("weather", weather()),
        tool("now", empty),
        tool("any", json!({"type": "object"})),
    ]
}

fn calls(format: CallFormat) -> ToolCalls {
    ToolCalls {
        format,
        tools: tools(),
        required: true,
        parallel: true,
        content: None,
    }
}

/// A vocabulary that has the tags of GLM-4.5 as tokens.
fn tagged_factory() -> GuideFactory {
    let folder = tempfile::tempdir().unwrap();
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-glm4");
    for file in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer_config.json",
    ] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let mut json = std::fs::read_to_string(source.join("tokenizer.json")).unwrap();
    for (other, tag) in [
        ("<|begin_of_image|>", "<arg_key>"),
        ("<|end_of_image|>", "</arg_key>"),
        ("<|begin_of_video|>", "<arg_value>"),
        ("<|end_of_video|>", "</arg_value>"),
    ] {
        json = json.replace(other, tag);
    }
    std::fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    let checkpoint = Checkpoint::open(folder.path().to_str().unwrap()).unwrap();
    let eos = checkpoint.config().dense().eos_token_ids.clone();
    GuideFactory::new(checkpoint.tokenizer().unwrap(), VOCAB, eos)
}

/// A random answer; after `hurry` tokens what closes something is said where it is allowed.
fn answer(factory: &GuideFactory, calls: &ToolCalls, seed: u64, hurry: usize) -> (Answer, String) {
    let vocabulary = factory.vocabulary().unwrap().clone();
    let tokenizer = &vocabulary.tokenizer;
    let grammar = Grammar::Tools(calls.clone());
    let mut guide = factory.guide(&grammar, &[], EndRules::default()).unwrap();
    let endings: &[&str] = match calls.format {
        CallFormat::Tagged { .. } => &[
            "</tool_call>",
            "</arg_value>",
            "</arg_key>",
            "\"",
            "}",
            "]",
            "0",
        ],
        // `=` ends the name of an argument.
        CallFormat::Python => &["=", "\"", "}", "]", ")", "0"],
        _ => &["\"", "}", "]", ")", "0"],
    };
    // Not as a text of its own, which some vocabularies begin with a blank.
    let token =
        |text: &str| (0..VOCAB as u32).find(|&id| tokenizer.token_bytes(id) == text.as_bytes());
    let encode = |text: &&str| match token(text) {
        Some(id) => vec![id],
        None => tokenizer.encode(text, SpecialTokens::Parse).unwrap(),
    };
    let mut endings: Vec<Vec<u32>> = endings.iter().map(encode).collect();
    endings.retain(|ids| ids.iter().all(|&id| (id as usize) < VOCAB));
    let (mut rng, mut ids) = (Rng(seed), Vec::new());
    loop {
        assert!(
            ids.len() < 3000,
            "no end: {}",
            tokenizer.decode(&ids, false)
        );
        let mask = guide.mask().unwrap();
        let allowed: Vec<u32> = (0..VOCAB as u32)
            .filter(|&id| mask.0.is_allowed(id))
            .collect();
        let mut next = vec![allowed[rng.below(allowed.len())]];
        if ids.len() >= hurry {
            if allowed.contains(&vocabulary.eos_token_ids[0]) {
                break;
            }
            let fits = endings.iter();
            let fits: Vec<_> = fits
                .filter(|ids| guide.num_allowed(ids) == ids.len())
                .collect();
            if !fits.is_empty() {
                next = fits[rng.below(fits.len())].clone();
            }
        }
        for id in next {
            guide.advance(id).unwrap();
            ids.push(id);
        }
        if vocabulary.eos_token_ids.contains(ids.last().unwrap()) {
            ids.pop();
            break;
        }
    }
    let text = tokenizer.decode(&ids, false);
    let parser = AnswerParser::new(Some(calls.format), &tools(), false);
    (parser.parse(&text), text)
}

/// `None` for what holds a number that JSON has and f64 has not, such as 1E410.
fn parsed(json: &str) -> Result<Option<Value>, serde_json::Error> {
    match serde_json::from_str(json) {
        Err(error) if error.to_string().contains("out of range") => Ok(None),
        parsed => parsed.map(Some),
    }
}

fn assert_valid(answer: &Answer, text: &str) {
    for call in &answer.calls {
        assert!(call.complete, "{text}");
        let Some(arguments) =
            parsed(&call.arguments).unwrap_or_else(|error| panic!("{error}: {text}"))
        else {
            continue;
        };
        let tools = tools();
        let tool = tools
            .iter()
            .find(|tool| tool["function"]["name"] == call.name.as_str());
        let schema = &tool.unwrap_or_else(|| panic!("{text}"))["function"]["parameters"];
        let validator = jsonschema::validator_for(schema).unwrap();
        assert!(validator.is_valid(&arguments), "{arguments} in {text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_call_satisfies_its_parameters(seed: u64, hurry in 0..60usize, parallel: bool) {
        let cases = [
            (factory("tiny-glm4"), CallFormat::Json),
            (factory("tiny-chatglm3"), CallFormat::Python),
            (factory("tiny-glm4"), TAGGED[0]),
            (factory("tiny-chatglm-glm4"), TAGGED[1]),
            (tagged_factory(), TAGGED[0]),
            (tagged_factory(), TAGGED[1]),
        ];
        for (factory, format) in cases {
            let calls = ToolCalls { parallel, ..calls(format) };
            let (answer, text) = answer(&factory, &calls, seed, hurry);
            assert_valid(&answer, &text);
            prop_assert!(!answer.calls.is_empty() && answer.content.is_empty(), "{}", text);
            prop_assert!(parallel || answer.calls.len() == 1, "{}", text);
        }
    }

    #[test]
    fn an_answer_that_may_call_does_so_in_form(seed: u64, hurry in 0..60usize) {
        for (factory, format) in [
            (factory("tiny-glm4"), CallFormat::Json),
            (factory("tiny-chatglm3"), CallFormat::Python),
            (factory("tiny-chatglm-glm4"), TAGGED[0]),
            (tagged_factory(), TAGGED[1]),
        ] {
            let free = ToolCalls { required: false, ..calls(format) };
            let (read, text) = answer(&factory, &free, seed, hurry);
            assert_valid(&read, &text);
            let object = ToolCalls { content: Some(Box::new(Grammar::JsonObject)), ..free };
            let (read, text) = answer(&factory, &object, seed, hurry);
            assert_valid(&read, &text);
            let is_object = parsed(&read.content).is_ok_and(|value| value.is_none_or(|value| value.is_object()));
            prop_assert_eq!(is_object, read.calls.is_empty(), "{}", text);
        }
    }
}

#[test]
fn tools_that_cannot_be_enforced_are_refused_by_what_is_wrong() {
    let factory = factory("tiny-glm4");
    let check = |format, tools| {
        let calls = ToolCalls {
            tools,
            ..calls(format)
        };
        factory.check(&Grammar::Tools(calls))
    };
    let refused = |format, tool: Value| check(format, vec![tool]).unwrap_err().to_string();
    let property = |schema: Value| json!({"type": "object", "properties": {"x": schema}});
    for format in [CallFormat::Json, CallFormat::Python, TAGGED[0]] {
        let poem = tool("f", property(json!({"type": "string", "format": "poem"})));
        assert!(
            refused(format, poem.clone()).contains("format")
                || refused(format, poem.clone()).contains("poem")
        );
        let mut lenient = poem;
        lenient["function"]["strict"] = json!(false);
        assert_eq!(check(format, vec![lenient]), Ok(()), "{format:?}");
        assert!(refused(format, tool("a\nb", json!({}))).contains("cannot be written"));
        assert_eq!(check(format, Vec::new()), Err(GrammarError::NoChoice));
    }
    let odd = json!({"type": "object", "properties": {"a=b": {}}});
    assert!(refused(CallFormat::Python, tool("f", odd)).contains("a=b"));
    let deep = (0..200).fold(json!({}), |inner, _| property(inner));
    assert!(matches!(
        check(CallFormat::Json, vec![tool("f", deep)]),
        Err(GrammarError::TooLarge { .. })
    ));
}
