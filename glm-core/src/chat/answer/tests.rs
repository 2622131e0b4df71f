//! Answers of every format, cut in every way.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

const TAGGED: CallFormat = CallFormat::Tagged { lines: true };
const FORMATS: [CallFormat; 3] = [CallFormat::Json, CallFormat::Python, TAGGED];

fn tools() -> Vec<Json> {
    vec![
        json!({"type": "function", "function": {"name": "weather", "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "fresh": {"type": "boolean"},
                "area": {"$ref": "#/$defs/area"},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "any": {},
            },
            "$defs": {"area": {"type": "object"}},
        }}}),
        json!({"type": "function", "function": {"name": "now"}}),
        json!({"name": "天气", "parameters": {"type": "object"}}),
    ]
}

fn parser(format: CallFormat) -> AnswerParser {
    AnswerParser::new(Some(format), &tools(), false)
}

fn parse(format: CallFormat, text: &str) -> Answer {
    let whole = parser(format).parse(text);
    assert_eq!(
        cut(parser(format), text.split("").collect()),
        whole,
        "{text:?}"
    );
    whole
}

fn cut(mut parser: AnswerParser, pieces: Vec<&str>) -> Answer {
    let mut answer = Answer::default();
    for piece in pieces {
        answer.extend(parser.push(piece));
    }
    answer.extend(parser.finish());
    answer
}

fn calls(answer: &Answer) -> Vec<(&str, Json)> {
    let call = |call: &AnswerCall| -> Json {
        assert!(call.complete);
        serde_json::from_str(&call.arguments).expect(&call.arguments)
    };
    answer.calls.iter().map(|c| (&*c.name, call(c))).collect()
}

fn said(answer: &Answer) -> (Option<&str>, &str) {
    (answer.reasoning.as_deref(), &answer.content)
}

#[test]
fn a_thought_is_told_from_the_answer() {
    let plain = |text, inside| AnswerParser::new(None, &[], inside).parse(text);
    assert_eq!(said(&plain("Hello", false)), (None, "Hello"));
    assert_eq!(said(&plain("\n Hello \n", false)), (None, " Hello \n"));
    assert_eq!(
        said(&plain("\n<think>a b\n</think>\n\nc", false)),
        (Some("a b"), "c")
    );
    assert_eq!(said(&plain("a</think>b", true)), (Some("a"), "b"));
    assert_eq!(said(&plain("<think>a</think>b", true)), (Some("a"), "b"));
    assert_eq!(
        said(&plain("still thinking", true)),
        (Some("still thinking"), "")
    );
    assert_eq!(
        said(&plain("still </thin", true)),
        (Some("still </thin"), "")
    );
    assert_eq!(said(&plain("<think>\n</think>\nb", false)), (None, "b"));
    assert_eq!(
        said(&plain("<thing> a <think>", false)),
        (None, "<thing> a <think>")
    );
    assert_eq!(said(&plain("a < b << c", false)), (None, "a < b << c"));
}

#[test]
fn glm_45_calls_are_read() {
    let text = "<think>I look.</think>\nOne moment.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>a \"b\"\n</arg_valu</arg_value>\n\
                <arg_key>days</arg_key>\n<arg_value>3</arg_value>\n<arg_key>area</arg_key>\n<arg_value>{\"x\": [1, {\"y\": \"é<\"}]}</arg_value>\n\
                </tool_call>\n<tool_call>now</tool_call>\n<tool_call>now\n</tool_call>\n";
    let answer = parse(TAGGED, text);
    assert_eq!(said(&answer), (Some("I look."), "One moment."));
    let first = json!({"city": "a \"b\"\n</arg_valu", "days": 3, "area": {"x": [1, {"y": "é<"}]}});
    assert_eq!(
        calls(&answer),
        [("weather", first), ("now", json!({})), ("now", json!({}))]
    );

    let flat = "<tool_call>天气<arg_key>x</arg_key><arg_value>雨</arg_value></tool_call>and more";
    let answer = parse(TAGGED, flat);
    assert_eq!(
        (calls(&answer), &*answer.content),
        (vec![("天气", json!({"x": "雨"}))], "and more")
    );
}

#[test]
fn values_have_the_type_that_was_declared() {
    let value = |name: &str, value: &str| -> Json {
        let text = format!(
            "<tool_call>weather<arg_key>{name}</arg_key><arg_value>{value}</arg_value></tool_call>"
        );
        calls(&parse(TAGGED, &text))[0].1[name].clone()
    };
    assert_eq!(value("city", "3"), json!("3"));
    assert_eq!(value("city", " {} "), json!(" {} "));
    assert_eq!(value("days", " 3 "), json!(3));
    assert_eq!(value("days", "three"), json!("three"));
    assert_eq!(value("fresh", "True"), json!(true));
    assert_eq!(value("note", "null"), json!(null));
    assert_eq!(value("note", "12"), json!("12"));
    assert_eq!(value("any", "[1]"), json!([1]));
    assert_eq!(value("any", "None"), json!("None"));
    assert_eq!(value("unknown", "a b"), json!("a b"));
    let tags = "[\"</arg_value>\", \"\\\"</arg_value>\"]";
    assert_eq!(
        value("any", tags),
        json!(["</arg_value>", "\"</arg_value>"])
    );
    let ends = vec!["</arg_value>".repeat(50); 50];
    assert_eq!(value("any", &json!(ends).to_string()), json!(ends));
    assert_eq!(value("any", "[it's \"x"), json!("[it's \"x"));
}

#[test]
fn glm_4_calls_are_read() {
    let answer = parse(
        CallFormat::Json,
        "weather\n{\"city\": \"}\\\"\", \"x\": [{}]}",
    );
    assert_eq!(
        calls(&answer),
        [("weather", json!({"city": "}\"", "x": [{}]}))]
    );
    let text =
        "\nI look.<|assistant|>weather\n{\"city\": \"Rome\"}<|assistant|>now\n{}天气 \n {\"a\": 1}";
    let answer = parse(CallFormat::Json, text);
    assert_eq!(answer.content, "I look.");
    let names: Vec<_> = calls(&answer).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["weather", "now", "天气"]);
    for text in [
        "weather\nis fine",
        "weather {}",
        "weathe",
        "weather\n",
        "now\n\nnot\nwea\n{",
        "Look: now\n{}",
    ] {
        let answer = parse(CallFormat::Json, text);
        assert_eq!((answer.calls.len(), answer.content.as_str()), (0, text));
    }
    assert_eq!(
        calls(&parse(CallFormat::Json, "now\nnow\n{}")),
        [("now", json!({}))]
    );
}

#[test]
fn chatglm3_calls_are_read() {
    let text = "weather\n ```python\ntool_call(city='a\\'b\\n\"', days=-3, area={'x': [1, 2.5,], \"y\": (True, None)}, note=\"雨\\u96e8\")\n```";
    let answer = parse(CallFormat::Python, text);
    let arguments = json!({"city": "a'b\n\"", "days": -3, "area": {"x": [1, 2.5], "y": [true, null]}, "note": "雨雨"});
    assert_eq!(
        (calls(&answer), &*answer.content),
        (vec![("weather", arguments)], "")
    );
    let answer = parse(
        CallFormat::Python,
        "now\n ```python\ntool_call()\n```\nDone.",
    );
    assert_eq!(
        (calls(&answer), &*answer.content),
        (vec![("now", json!({}))], "Done.")
    );
    let answer = parse(
        CallFormat::Python,
        "weather\n tool_call('Rome', days = 2, any=x.y, fresh=true)",
    );
    assert_eq!(
        calls(&answer)[0].1,
        json!({"city": "Rome", "days": 2, "any": "x.y", "fresh": true})
    );
    let code = "\n Here:\nnow\n ```python\nprint(1)\n```";
    assert_eq!(parse(CallFormat::Python, code).content, code.trim_start());
}

#[test]
fn a_call_that_is_cut_off_is_not_complete() {
    let open = |format, text: &str| -> (String, String) {
        let answer = parse(format, text);
        let call = answer.calls.first().cloned().unwrap_or_default();
        assert!(!call.complete, "{text}");
        (call.arguments, answer.content)
    };
    let head = "<tool_call>weather<arg_key>city</arg_key>";
    assert_eq!(
        open(TAGGED, "<tool_call>wea"),
        (String::new(), "<tool_call>wea".into())
    );
    assert_eq!(open(TAGGED, head).0, "");
    assert_eq!(
        open(TAGGED, &format!("{head}<arg_value>Ro</arg")).0,
        "{\"city\": \"Ro"
    );
    assert_eq!(
        open(
            TAGGED,
            &format!("{head}<arg_value>Ro</arg_value></tool_cal")
        )
        .0,
        "{\"city\": \"Ro\""
    );
    assert_eq!(
        open(
            TAGGED,
            "<tool_call>weather<arg_key>days</arg_key><arg_value>12"
        )
        .0,
        "{\"days\": 12"
    );
    assert_eq!(
        open(CallFormat::Json, "weather\n{\"city\": \"Ro").0,
        "{\"city\": \"Ro"
    );
    assert_eq!(
        open(CallFormat::Python, "weather\n tool_call(city='Ro").0,
        "{\"city\": \"Ro"
    );
    assert_eq!(
        open(CallFormat::Python, "weather\n tool_call(days=1").0,
        "{\"days\": 1"
    );
}

#[test]
fn arguments_stream_as_they_come() {
    for (format, text) in [
        (
            TAGGED,
            "<tool_call>weather<arg_key>city</arg_key><arg_value>Rome and",
        ),
        (CallFormat::Json, "weather\n{\"city\": \"Rome and"),
        (
            CallFormat::Python,
            "weather\n ```python\ntool_call(city='Rome and",
        ),
    ] {
        let mut answer = Answer::default();
        answer.extend(parser(format).push(text));
        assert_eq!(
            answer.calls[0].arguments, "{\"city\": \"Rome and",
            "{format:?}"
        );
    }
}

#[test]
fn without_tools_nothing_is_a_call() {
    let text = "<tool_call>now</tool_call>";
    assert_eq!(
        AnswerParser::new(Some(TAGGED), &[], false)
            .parse(text)
            .content,
        text
    );
    assert_eq!(
        AnswerParser::new(None, &tools(), false).parse(text).content,
        text
    );
    for text in [
        "a <tool_call> in prose",
        "<tool_call><tool_call>{",
        "<tool_call>\"now\"",
    ] {
        assert_eq!(parse(TAGGED, text).content, text);
    }
}

/// Texts made of what the formats are made of.
fn text() -> impl Strategy<Value = String> {
    let parts = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "<|assistant|>",
        "weather",
        "now",
        "天气",
        "city",
        "\n",
        " ",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "'",
        "\"",
        "\\",
        ",",
        ":",
        "=",
        "```",
        "```python\n",
        "tool_call(",
        "<",
        ">",
        "3",
        "True",
        "é",
        "\\u00e9",
        "x",
        "```python\ntool_call(",
        "weather\n",
        "now\n{}",
    ];
    let part = prop_oneof![
        8 => prop::sample::select(parts.to_vec()).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

fn without_blanks(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn every_way_of_cutting_gives_the_same(text in text(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6), inside: bool) {
        for format in FORMATS {
            let parser = AnswerParser::new(Some(format), &tools(), inside);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| text.floor_char_boundary(cut.index(text.len() + 1))).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let whole = parser.clone().parse(&text);
            prop_assert_eq!(&cut(parser.clone(), pieces), &whole);
            prop_assert_eq!(&cut(parser, text.split("").collect()), &whole);
        }
    }

    #[test]
    fn no_text_is_lost_where_nothing_is_called(text in text()) {
        for format in FORMATS {
            let answer = parser(format).parse(&text);
            if !answer.calls.is_empty() || text.contains(ASSISTANT) && format != TAGGED {
                continue;
            }
            let mut expected = without_blanks(&text);
            if let Some(thought) = expected.strip_prefix(THINK) {
                expected = thought.replacen(END_THINK, "", 1);
            }
            let found = answer.reasoning.unwrap_or_default() + &answer.content;
            prop_assert_eq!(without_blanks(&found), expected);
        }
    }

    #[test]
    fn what_was_called_is_read(city in any::<String>(), days in any::<i64>(), note in "[^<]{0,9}") {
        let json = json!({"city": city, "days": days, "any": {"note": [note, null, true]}});
        let text = format!("weather\n{json}");
        let answer = parse(CallFormat::Json, &text);
        prop_assert_eq!(calls(&answer), [("weather", json.clone())]);
        prop_assume!(!city.contains("</arg_value>"));
        let argument = |(name, value): (&String, &Json)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("<arg_key>{name}</arg_key>\n<arg_value>{value}</arg_value>\n")
        };
        let arguments: String = json.as_object().unwrap().iter().map(argument).collect();
        let text = format!("<tool_call>weather\n{arguments}</tool_call>");
        let answer = parse(TAGGED, &text);
        prop_assert_eq!(calls(&answer), [("weather", json.clone())]);
        let keywords: Vec<String> = json.as_object().unwrap().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let text = format!("weather\n ```python\ntool_call({})\n```", keywords.join(", "));
        let answer = parse(CallFormat::Python, &text);
        prop_assert_eq!(calls(&answer), [("weather", json)]);
    }
}

#[test]
fn long_hostile_texts_take_linear_time() {
    let parts = [
        "<",
        "\n",
        " ",
        "weather\n",
        "weather ",
        "weather\n```",
        "weather\n ```python\nto",
        "<tool_call>",
        "<tool_call>x\n",
        "now\n{}",
        "<tool_call>now<arg_key>",
        "<tool_call>now<arg_key>a</arg_key><arg_value>[",
        "<tool_call>now<arg_key>a</arg_key><arg_value>\"",
        "\"</arg_value>",
        "now\ntool_call([",
        "[",
        "\\",
        "'",
    ];
    for part in parts {
        for format in FORMATS {
            let text = part.repeat(200_000 / part.len());
            let answer = parser(format).parse(&text);
            let calls: usize = answer.calls.iter().map(|call| call.arguments.len()).sum();
            assert!(
                answer.content.len() + calls <= 2 * text.len() + 10,
                "{part:?}"
            );
        }
    }
}
