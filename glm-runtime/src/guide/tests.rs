//! Answers drawn at random from what the masks allow: whatever they are, they must be what was asked for.

use std::path::PathBuf;

use glm_core::{Checkpoint, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::request::Part;

pub(super) const VOCAB: usize = 400;

fn tokenizer(model: &str) -> (Tokenizer, Vec<u32>) {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "models", model]
        .iter()
        .collect();
    let checkpoint = Checkpoint::open(path.to_str().unwrap()).unwrap();
    let eos = &checkpoint.config().dense().eos_token_ids;
    (checkpoint.tokenizer().unwrap(), eos.clone())
}

pub(super) fn factory(model: &str) -> GuideFactory {
    let (tokenizer, eos) = tokenizer(model);
    GuideFactory::new(tokenizer, VOCAB, eos)
}

fn regex(text: &str) -> Grammar {
    Grammar::Regex(text.to_owned())
}

fn choice(texts: &[&str]) -> Grammar {
    Grammar::Choice(texts.iter().map(|&text| text.to_owned()).collect())
}

/// Random numbers (Steele et al. 2014, SplitMix64).
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// One answer. After `hurry` tokens what closes something is taken where it is allowed, so that the answer ends.
fn answer(factory: &GuideFactory, guide: &mut Guide, seed: u64, hurry: usize) -> Vec<u32> {
    let mut rng = Rng(seed);
    let vocabulary = guide_vocabulary(factory);
    let close = ["}", "]", "\"", ">"].map(|text| vocabulary.tokenizer.token_to_id(text).unwrap());
    let mut ids = Vec::new();
    loop {
        assert!(ids.len() < 4000, "no end: {}", text(factory, &ids));
        let mask = guide.mask().unwrap();
        let allowed: Vec<u32> = (0..VOCAB as u32)
            .filter(|&id| mask.0.is_allowed(id))
            .collect();
        let random = allowed[rng.below(allowed.len())];
        let closing: Vec<u32> = (close.iter().copied())
            .filter(|id| allowed.contains(id))
            .collect();
        let id = match closing[..] {
            _ if ids.len() < hurry => random,
            _ if allowed.contains(&vocabulary.eos_token_ids[0]) => vocabulary.eos_token_ids[0],
            [] => random,
            _ => closing[rng.below(closing.len())],
        };
        guide.advance(id).unwrap();
        if vocabulary.eos_token_ids.contains(&id) {
            return ids;
        }
        ids.push(id);
    }
}

fn guide_vocabulary(factory: &GuideFactory) -> std::sync::Arc<vocabulary::Vocabulary> {
    factory.vocabulary().unwrap().clone()
}

fn text(factory: &GuideFactory, ids: &[u32]) -> String {
    guide_vocabulary(factory).tokenizer.decode(ids, true)
}

/// The text of a random answer to an empty prompt.
fn random_text(factory: &GuideFactory, grammar: &Grammar, seed: u64, hurry: usize) -> String {
    let mut guide = factory.guide(grammar, &[], EndRules::default()).unwrap();
    let ids = answer(factory, &mut guide, seed, hurry);
    text(factory, &ids)
}

fn bounded(low: i64, len: i64) -> (i64, i64) {
    (low, low + len)
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({ "type": "boolean" })),
        Just(json!({ "type": ["null", "boolean"] })),
        (-1000..1000i64, 0..500i64).prop_map(|(low, len)| {
            let (low, high) = bounded(low, len);
            json!({ "type": "integer", "minimum": low, "maximum": high })
        }),
        (-100..100i64, 1..50i64).prop_map(|(low, len)| {
            let (low, high) = bounded(low, len);
            json!({ "type": "number", "minimum": low, "exclusiveMaximum": high })
        }),
        (0..3usize, 0..6usize).prop_map(|(min, more)| {
            json!({ "type": "string", "minLength": min, "maxLength": min + more })
        }),
        Just(json!({ "type": "string", "pattern": "^[a-f]{1,4}-[0-9]+$" })),
        Just(json!({ "type": "string", "format": "date" })),
        Just(json!({ "enum": ["red", "grün", "\"quoted\"\n", 7, null, [1, {"a": 2}]] })),
        "[ -~一-二\n]{0,8}".prop_map(|text| json!({ "const": text })),
    ]
}

fn schema() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        let property = ("[a-c\" é]{0,3}", inner.clone(), any::<bool>());
        let more = prop_oneof![
            Just(json!(false)),
            Just(json!({ "type": "integer", "minimum": 0, "maximum": 9 }))
        ];
        let object = (prop::collection::vec(property, 0..4), more).prop_map(|(fields, more)| {
            let required: std::collections::BTreeSet<_> = fields
                .iter()
                .filter(|(_, _, required)| *required)
                .map(|(name, ..)| name.clone())
                .collect();
            let properties: serde_json::Map<_, _> = fields
                .into_iter()
                .map(|(name, schema, _)| (name, schema))
                .collect();
            json!({ "type": "object", "properties": properties, "required": required,
                    "additionalProperties": more })
        });
        let array = (inner.clone(), 0..3usize, 0..3usize).prop_map(|(items, min, more)| {
            json!({ "type": "array", "items": items, "minItems": min, "maxItems": min + more })
        });
        let any_of = prop::collection::vec(inner, 1..3).prop_map(|of| json!({ "anyOf": of }));
        prop_oneof![object, array, any_of]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_is_answered_satisfies_the_schema(schema in schema(), seed: u64, hurry in 0..80usize) {
        let factory = factory("tiny-glm4");
        let validator = jsonschema::validator_for(&schema).unwrap();
        let grammar = Grammar::JsonSchema(schema);
        let text = random_text(&factory, &grammar, seed, hurry);
        let value: Value = serde_json::from_str(&text).map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
        prop_assert!(validator.is_valid(&value), "{text}");
    }

    #[test]
    fn one_of_the_choices_is_answered_and_any_can_be(
        texts in prop::collection::vec("[ab\"\\\\ 一\n]{1,6}", 1..5), seed: u64,
    ) {
        let factory = factory("tiny-glm4");
        let grammar = Grammar::Choice(texts.clone());
        let answer = random_text(&factory, &grammar, seed, 1000);
        prop_assert!(texts.contains(&answer), "{answer:?}");
        for text in &texts {
            let mut guide = factory.guide(&grammar, &[], EndRules::default()).unwrap();
            for id in guide_vocabulary(&factory).tokenizer.encode(text, glm_core::tokenizer::SpecialTokens::Plain).unwrap() {
                let mask = guide.mask().unwrap();
                prop_assert!(mask.0.is_allowed(id), "{text:?}");
                guide.advance(id).unwrap();
            }
            let eos = guide_vocabulary(&factory).eos_token_ids[0];
            prop_assert!(guide.mask().unwrap().0.is_allowed(eos), "{text:?}");
        }
    }
}

#[test]
fn every_kind_of_vocabulary_can_be_guided() {
    let schema = json!({ "type": "object", "properties": { "name": { "type": "string", "maxLength": 8 } },
                         "required": ["name"], "additionalProperties": false });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let grammar = Grammar::JsonSchema(schema);
    let models = [
        "tiny-glm4",
        "tiny-chatglm-glm4",
        "tiny-chatglm3",
        "tiny-glm4/model-bf16.gguf",
        "tiny-chatglm3/model-bf16.gguf",
    ];
    for model in models {
        let (tokenizer, eos) = tokenizer(model);
        let factory = GuideFactory::new(tokenizer, VOCAB, eos);
        for seed in 0..20 {
            let text = random_text(&factory, &grammar, seed, 20);
            let value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{model}: {error}: {text}"));
            assert!(validator.is_valid(&value), "{model}: {text}");
        }
    }
}

#[test]
fn a_json_object_is_any_object() {
    let factory = factory("tiny-glm4");
    for seed in 0..40 {
        let text = random_text(&factory, &Grammar::JsonObject, seed, seed as usize);
        let value: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(value.is_object(), "{text}");
    }
}

#[test]
fn a_regular_expression_is_matched_whole() {
    let factory = factory("tiny-glm4");
    for seed in 0..50 {
        let text = random_text(&factory, &regex(r"([0-9]{3}-)?[0-9]{4}"), seed, 1000);
        let digits: Vec<usize> = text.split('-').map(str::len).collect();
        assert!(matches!(digits[..], [4] | [3, 4]), "{text}");
        assert!(text.chars().all(|c| c.is_numeric() || c == '-'), "{text}");
    }
}

#[test]
fn a_lark_grammar_can_name_special_tokens() {
    let factory = factory("tiny-glm4");
    let grammar = "start: \"weather\" <tool_call> CITY \"!\"\nCITY: \"Rome\" | \"Oslo\"";
    let grammar = Grammar::Lark(grammar.to_owned());
    for seed in 0..10 {
        let text = random_text(&factory, &grammar, seed, 1000);
        assert!(
            matches!(
                &*text,
                "weather<tool_call>Rome!" | "weather<tool_call>Oslo!"
            ),
            "{text}"
        );
    }
}

#[test]
fn bad_grammars_are_refused_with_what_is_wrong() {
    let factory = factory("tiny-glm4");
    let refused = |grammar: Grammar| factory.check(&grammar).unwrap_err().to_string();
    let schema = |schema: Value| refused(Grammar::JsonSchema(schema));
    assert!(schema(json!({ "type": "objekt" })).contains("objekt"));
    assert!(schema(json!({ "type": "array", "contains": {} })).contains("contains"));
    assert!(schema(json!({ "$ref": "https://example.org/schema" })).contains("example.org"));
    assert!(schema(json!({ "type": "string", "format": "poem" })).contains("poem"));
    assert!(schema(json!(false)).contains("Unsatisfiable"));
    assert!(schema(json!([1])).contains("must be an object or boolean"));
    assert!(refused(regex("a(b")).contains("unclosed group"));
    assert!(refused(Grammar::Lark("start: \"a\" |\nfoo bar".to_owned())).contains('2'));
    assert!(refused(Grammar::Lark(String::new())).contains("start"));
    assert!(refused(choice(&[])).contains("empty"));
    let lenient = json!({ "contains": {}, "x-guidance": { "lenient": true } });
    assert!(schema(lenient).contains("contains"));
}

#[test]
fn hostile_grammars_end_in_an_error_and_not_in_work_without_end() {
    let factory = factory("tiny-glm4");
    let refused = |grammar: Grammar| factory.check(&grammar).unwrap_err();
    let nested = (0..200).fold(json!({}), |inner, _| json!({ "items": inner }));
    assert!(matches!(
        refused(Grammar::JsonSchema(nested)),
        GrammarError::TooLarge { unit: "levels", .. }
    ));
    let long = regex(&"a".repeat((1 << 20) + 1));
    assert!(matches!(
        refused(long),
        GrammarError::TooLarge { unit: "bytes", .. }
    ));
    let invalid = |grammar| matches!(refused(grammar), GrammarError::Invalid { .. });
    assert!(invalid(regex(&"(".repeat(100_000))));
    let parentheses = format!("start: {}", "(".repeat(100_000));
    assert!(invalid(Grammar::Lark(parentheses)));
    // What is large only when written out need not be refused, and what refers to itself may have a meaning; both must only come to
    // an end.
    let _ = factory.check(&regex("((((a{100}){100}){100}){100}){100}"));
    let myself = json!({ "allOf": [{ "$ref": "#" }, { "type": "object" }] });
    let _ = factory.check(&Grammar::JsonSchema(myself));
}

#[test]
fn a_schema_as_deep_as_is_accepted_compiles_on_a_small_stack() {
    let factory = factory("tiny-glm4");
    let nested = (0..60).fold(
        json!({ "type": "null" }),
        |inner, _| json!({ "type": "array", "items": inner, "minItems": 1 }),
    );
    factory.check(&Grammar::JsonSchema(nested)).unwrap();
}

#[test]
fn a_model_without_an_end_cannot_be_guided() {
    let (tokenizer, _) = tokenizer("tiny-glm4");
    let factory = GuideFactory::new(tokenizer, VOCAB, Vec::new());
    let refused = factory.check(&Grammar::JsonObject);
    assert_eq!(refused, Err(GrammarError::NoEndOfSequence));
}

#[test]
fn the_end_waits_for_min_tokens_and_ignore_eos_as_far_as_the_grammar_goes_on() {
    let factory = factory("tiny-glm4");
    let vocabulary = guide_vocabulary(&factory);
    let stop_token_ids = vocabulary.eos_token_ids.clone();
    let len = |end: EndRules, seed| {
        let mut guide = factory.guide(&regex("[a-z]{1,9}"), &[], end).unwrap();
        // Whatever can end, ends.
        let ids = answer(&factory, &mut guide, seed, 0);
        (ids.len(), text(&factory, &ids).len())
    };
    for seed in 0..20 {
        assert_eq!(len(EndRules::default(), seed).0, 1);
        let end = EndRules {
            stop_token_ids: stop_token_ids.clone(),
            min_tokens: 4,
            ignore_eos: false,
        };
        let (tokens, letters) = len(end, seed);
        assert!(tokens == 4 || letters == 9);
        let end = EndRules {
            ignore_eos: true,
            ..EndRules::default()
        };
        assert_eq!(len(end, seed).1, 9);
    }
}

#[test]
fn the_grammar_begins_behind_an_open_thought() {
    let factory = factory("tiny-glm4");
    let vocabulary = guide_vocabulary(&factory);
    let [open, assistant] =
        ["<think>", "<|assistant|>"].map(|text| vocabulary.tokenizer.token_to_id(text).unwrap());
    let close = vocabulary.tokenizer.token_to_id("</think>").unwrap();
    let grammar = choice(&["yes", "no"]);
    for seed in 0..20 {
        let mut guide = factory
            .guide(&grammar, &[assistant, open], EndRules::default())
            .unwrap();
        for id in [open, vocabulary.tokenizer.token_to_id("z").unwrap()] {
            let mask = guide.mask().unwrap();
            assert!(mask.0.is_allowed(id) && !mask.0.is_allowed(vocabulary.eos_token_ids[0]));
            guide.advance(id).unwrap();
        }
        // Spelt out: the marker need not be one token.
        let parts = if seed % 2 == 0 {
            vec![close]
        } else {
            spelt(&vocabulary.tokenizer, "</think>")
        };
        for id in parts {
            guide.mask().unwrap();
            guide.advance(id).unwrap();
        }
        let ids = answer(&factory, &mut guide, seed, 1000);
        assert!(matches!(text(&factory, &ids).trim_start(), "yes" | "no"));
    }
}

fn spelt(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let plain = glm_core::tokenizer::SpecialTokens::Plain;
    tokenizer.encode(text, plain).unwrap()
}

#[test]
fn a_model_that_may_think_thinks_or_answers() {
    let factory = factory("tiny-glm4");
    let vocabulary = guide_vocabulary(&factory);
    let [open, close, assistant] = ["<think>", "</think>", "<|assistant|>"]
        .map(|text| vocabulary.tokenizer.token_to_id(text).unwrap());
    let grammar = choice(&["yes"]);
    let prompts: [(&[u32], bool); 3] = [
        (&[assistant], true),
        (&[assistant, open, close], false),
        (&[], false),
    ];
    for (prompt, may_think) in prompts {
        let mut guide = factory
            .guide(&grammar, prompt, EndRules::default())
            .unwrap();
        let mask = guide.mask().unwrap();
        assert_eq!(mask.0.is_allowed(open), may_think);
        let first = vocabulary.tokenizer.token_to_id("y").unwrap();
        assert!(mask.0.is_allowed(first));
        guide.advance(if may_think { open } else { first }).unwrap();
        if may_think {
            guide.advance(close).unwrap();
            assert!(guide.mask().unwrap().0.is_allowed(first));
        }
    }
}

#[test]
fn a_turn_may_begin_with_a_line_end_that_is_no_part_of_its_text() {
    let factory = factory("tiny-glm4");
    let vocabulary = guide_vocabulary(&factory);
    let id = |text| vocabulary.tokenizer.token_to_id(text).unwrap();
    let [open, close, assistant, y] = ["<think>", "</think>", "<|assistant|>", "y"].map(id);
    let line_end = vocabulary.line_ends[0];
    let begin =
        |grammar, prompt: &[u32]| factory.guide(grammar, prompt, EndRules::default()).unwrap();
    let grammar = choice(&["yes"]);
    let mut guide = begin(&grammar, &[assistant]);
    for draft in [[line_end, line_end], [open, y]] {
        assert_eq!(
            guide.num_allowed(&draft),
            2,
            "what comes before is not known"
        );
    }
    assert_eq!(guide.num_allowed(&[y, y]), 1);
    let allowed = |guide: &mut Guide, ids: [u32; 3]| {
        let mask = guide.mask().unwrap();
        ids.map(|id| mask.0.is_allowed(id))
    };
    let ids = [line_end, open, y];
    assert_eq!(allowed(&mut guide, ids), [true, true, true]);
    assert_eq!(guide.advance(line_end).unwrap(), Part::Format);
    assert_eq!(allowed(&mut guide, ids), [false, true, true], "one of them");
    let mut answers = guide_at(&factory, &grammar, &[assistant], &[line_end]);
    assert_eq!(answers.advance(y).unwrap(), Part::Answer);
    for id in [open, line_end, close] {
        assert_eq!(guide.advance(id).unwrap(), Part::Thought);
    }
    assert_eq!(allowed(&mut guide, ids), [true, false, true]);
    assert_eq!(guide.advance(line_end).unwrap(), Part::Format);
    assert_eq!(guide.advance(y).unwrap(), Part::Answer);

    let lines = Grammar::Regex("\n*a".to_owned());
    let mut guide = begin(&lines, &[assistant]);
    for _ in 0..3 {
        assert_eq!(
            guide.advance(line_end).unwrap(),
            Part::Answer,
            "the grammar's"
        );
    }
    let mut guide = begin(&grammar, &[]);
    assert_eq!(allowed(&mut guide, ids), [false, false, true], "no turn");
}

#[test]
fn a_model_that_does_not_think_begins_on_the_next_line_all_the_same() {
    let (tokenizer, eos) = tokenizer("tiny-glm4");
    let factory = GuideFactory::new(tokenizer, VOCAB, eos).thinking(false);
    let vocabulary = guide_vocabulary(&factory);
    let assistant = vocabulary.tokenizer.token_to_id("<|assistant|>").unwrap();
    let open = vocabulary.tokenizer.token_to_id("<think>").unwrap();
    let line_end = vocabulary.line_ends[0];
    let mut guide = guide_at(&factory, &choice(&["yes"]), &[assistant], &[]);
    assert!(!guide.mask().unwrap().0.is_allowed(open));
    assert_eq!(guide.advance(line_end).unwrap(), Part::Format);
    let ids = answer(&factory, &mut guide, 1, 20);
    assert_eq!(text(&factory, &ids), "yes");
}

/// A guide behind these tokens of an answer.
fn guide_at(factory: &GuideFactory, grammar: &Grammar, prompt: &[u32], ids: &[u32]) -> Guide {
    let guide = factory.guide(grammar, prompt, EndRules::default());
    let mut guide = guide.unwrap();
    for &id in ids {
        guide.advance(id).unwrap();
    }
    guide
}

#[test]
fn no_token_ends_a_thought_and_begins_the_answer() {
    // A token `>{` after `</think` would hide the brace from the grammar.
    assert!(thinking::may_end_a_thought_too_late(b">{"));
    assert!(thinking::may_end_a_thought_too_late(b"k>> "));
    assert!(!thinking::may_end_a_thought_too_late(b"</think>\n\n"));
    assert!(!thinking::may_end_a_thought_too_late(b"text"));
    let (tokenizer, eos) = tokenizer("tiny-glm4");
    let mut vocabulary = vocabulary::Vocabulary::new(&tokenizer, VOCAB, &eos).unwrap();
    let ids = ["x", "y"].map(|text| tokenizer.token_to_id(text).unwrap());
    vocabulary.thought_enders = vec![(ids[0], b">{".to_vec()), (ids[1], b">\n".to_vec())];
    let allowed = |tail: &[u8]| {
        let mask = thinking::mask(tail, &vocabulary);
        ids.map(|id| mask.0.is_allowed(id))
    };
    assert_eq!(allowed(b"a < b"), [true, true]);
    assert_eq!(allowed(b"</think"), [false, true]);
}

#[test]
fn masks_prepared_ahead_are_the_same_masks() {
    let factory = factory("tiny-glm4");
    let grammar = regex("[a-z]{3}( [a-z]{3})*");
    let guide = || factory.guide(&grammar, &[], EndRules::default()).unwrap();
    let (mut ahead, mut late) = (vec![guide(), guide()], guide());
    let mut threads = MaskThreads::default();
    let mut rng = Rng(1);
    for _ in 0..12 {
        let guides = ahead.into_iter().map(|guide| (guide, Vec::new()));
        let (forward, prepared) = threads.prepare_during(guides.collect(), || "done");
        ahead = prepared;
        assert_eq!((forward, ahead.len()), ("done", 2));
        let mask = late.mask().unwrap();
        for guide in &mut ahead {
            assert_eq!(mask.0.as_slice(), guide.mask().unwrap().0.as_slice());
        }
        let ids = mask.0.to_list();
        let id = ids[rng.below(ids.len())];
        let part = late.advance(id).unwrap();
        for guide in &mut ahead {
            assert_eq!(guide.advance(id).unwrap(), part);
        }
    }
}

/// Masks of an answer that was guessed at, as a list of ids for each token.
fn masks(mut guide: Guide, answer: &[u32], guesses: impl Fn(usize) -> Vec<u32>) -> Vec<Vec<u32>> {
    let mut at = 0;
    let mut masks = Vec::new();
    while at < answer.len() {
        let guesses = guesses(at);
        guide.prepare(&guesses, || true);
        // As the engine does: on as long as what is chosen was guessed.
        for guess in guesses.into_iter().map(Some).chain([None]) {
            masks.push(guide.mask().unwrap().0.to_list());
            guide.advance(answer[at]).unwrap();
            at += 1;
            if guess != Some(answer[at - 1]) || at == answer.len() {
                break;
            }
        }
    }
    masks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn masks_behind_guesses_are_those_of_the_answer(
        seed in 0..1000u64,
        lengths in prop::collection::vec(0..6usize, 1..8),
        wrong in prop::collection::vec(any::<bool>(), 1..9),
    ) {
        let factory = factory("tiny-glm4");
        let schema = json!({ "type": "array", "items": { "enum": ["a", "bc", 7] }, "minItems": 2, "maxItems": 9 });
        let end = || EndRules { min_tokens: 20, ..EndRules::default() };
        for grammar in [Grammar::JsonSchema(schema), regex("[a-z]{3}( [a-z]{3}){2,6}")] {
            let guide = || factory.guide(&grammar, &[], end()).unwrap();
            let answer = answer(&factory, &mut guide(), seed, 40);
            // What comes next, and here and there something else.
            let guesses = |at: usize| -> Vec<u32> {
                let next = answer[at..].iter().take(lengths[at % lengths.len()]).enumerate();
                let guess = |(i, &id): (usize, &u32)| if wrong[(at + i) % wrong.len()] { id ^ 1 } else { id };
                next.map(guess).collect()
            };
            let expected = masks(guide(), &answer, |_| Vec::new());
            prop_assert_eq!(masks(guide(), &answer, guesses), expected);
        }
    }
}

#[test]
fn masks_behind_guesses_are_computed_as_long_as_there_is_time_and_the_grammar_allows() {
    let factory = factory("tiny-glm4");
    let id = |text| guide_vocabulary(&factory).tokenizer.token_to_id(text);
    let [a, b, c] = ["a", "b", "c"].map(|text| id(text).unwrap());
    let mut guide = factory
        .guide(&regex("abab[ab]*"), &[], EndRules::default())
        .unwrap();
    for (guesses, expected) in [
        (&[a, b, a][..], 3),
        (&[a, b, c, a], 2),
        (&[c, a], 0),
        (&[], 0),
    ] {
        guide.prepare(guesses, || true);
        assert_eq!(guide.num_guessed(), expected);
        let calls = std::cell::Cell::new(0);
        guide.prepare(guesses, || calls.replace(calls.get() + 1) < 2);
        assert_eq!(guide.num_guessed(), expected.min(1));
    }
    guide.prepare(&[a, b, a], || true);
    guide.mask().unwrap();
    guide.advance(a).unwrap();
    assert_eq!(guide.num_guessed(), 2);
    // What was guessed behind it is no more.
    guide.advance(b).unwrap();
    guide.advance(a).unwrap();
    assert_eq!(guide.num_guessed(), 0);
}

#[test]
fn threads_compute_masks_behind_guesses_while_the_model_computes() {
    let factory = factory("tiny-glm4");
    let grammar = regex("[a-z]{3}( [a-z]{3})*");
    let guide = || factory.guide(&grammar, &[], EndRules::default()).unwrap();
    let ids = answer(&factory, &mut guide(), 3, 30);
    let mut threads = MaskThreads::default();
    // Nothing is asked of how many are ready in time, but that they are right.
    for len in 0..5 {
        let guides = vec![(guide(), ids[..len].to_vec()), (guide(), Vec::new())];
        let (_, prepared) = threads.prepare_during(guides, || ());
        let masks = prepared.into_iter().map(|mut guide| {
            let mask = |&id: &u32| {
                let mask = guide.mask().unwrap().0.to_list();
                guide.advance(id).unwrap();
                mask
            };
            ids[..5].iter().map(mask).collect::<Vec<_>>()
        });
        let masks: Vec<_> = masks.collect();
        assert_eq!(masks[0], masks[1]);
    }
}
