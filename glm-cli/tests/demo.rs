//! What a person sees who has nothing but the program: the embedded model answers, in both languages.
//!
//! The questions are ones that it learnt in other words, so that another training of it passes as well.
mod common;

use std::fs;

use common::{arg, glm, glm_with_stdin};
use serde_json::{Value, json};

/// Holds a conversation through a pipe: after each line, its answer has to contain the words.
fn converse(options: &[&str], turns: &[(&str, &str)]) {
    let input: String = turns.iter().map(|(said, _)| format!("{said}\n")).collect();
    let args = [&["chat", "--temperature", "0"], options].concat();
    let output = glm_with_stdin(&args, &input).ok();
    let answers: Vec<&str> = output.lines().collect();
    assert_eq!(answers.len(), turns.len(), "one line each:\n{output}");
    for ((said, wanted), answer) in turns.iter().zip(answers) {
        assert!(
            answer.contains(wanted),
            "{said}\n{answer}\nhas no `{wanted}` in\n{output}"
        );
    }
}

#[test]
fn a_conversation_in_english() {
    converse(
        &["--thinking", "off"],
        &[
            ("Hello!", "!"),
            ("I live in Berlin.", "Berlin"),
            ("What is the capital of France?", "Paris"),
            ("What is 12 + 7?", "19"),
            ("What is the opposite of hot?", "cold"),
            ("Where do I live?", "Berlin"),
        ],
    );
}

#[test]
fn a_conversation_in_chinese() {
    converse(
        &["--thinking", "off"],
        &[
            ("你好！", "你好"),
            ("我叫小明。", "小明"),
            ("法国的首都是哪里？", "巴黎"),
            ("12加7等于多少？", "19"),
            ("热的反义词是什么？", "冷"),
            ("我叫什么名字？", "小明"),
        ],
    );
}

#[test]
fn a_name_is_remembered_over_other_things() {
    converse(
        &["--thinking", "off"],
        &[
            ("My name is Klara.", "Klara"),
            ("I like chess.", "chess"),
            ("Sort 41, 7, 99 and 15", "7, 15, 41, 99"),
            ("Tell me a story about a fox", "fox"),
            ("What is my name?", "Klara"),
            ("Count from 3 to 9", "3, 4, 5, 6, 7, 8, 9"),
        ],
    );
    converse(
        &["--thinking", "off"],
        &[
            ("我住在杭州。", "杭州"),
            ("给我讲一个关于小熊的故事", "小熊"),
            ("从3数到9", "3、4、5、6、7、8、9"),
            ("我住在哪里？", "杭州"),
        ],
    );
}

#[test]
fn it_does_what_the_system_message_says() {
    converse(
        &["--thinking", "off", "--system", "Answer in Chinese."],
        &[
            ("What is the capital of France?", "巴黎"),
            ("What colour is grass?", "绿"),
        ],
    );
}

#[test]
fn it_knows_this_program() {
    converse(
        &["--thinking", "off"],
        &[
            ("How do I measure the speed?", "glm-cli bench"),
            ("怎么量化模型？", "glm-cli quantize"),
        ],
    );
}

#[test]
fn it_thinks_where_that_is_wanted_and_a_pipe_gets_the_answer_alone() {
    let question = "What is the capital of France?\n";
    let answer = |how: &[&str]| {
        glm_with_stdin(&[&["chat", "--temperature", "0"], how].concat(), question).ok()
    };
    let (piped, shown) = (answer(&[]), answer(&["--thinking", "show"]));
    assert_eq!(piped, answer(&["--thinking", "hide"]));
    assert_eq!(piped.lines().count(), 1, "{piped}");
    let (thoughts, after) = shown
        .split_once("\n\n")
        .expect("thoughts, a blank line and the answer");
    assert!(!thoughts.trim().is_empty(), "{shown}");
    assert_eq!(after, piped);
}

/// The first choice in the result of a batch of one chat request with these fields.
fn answer_to(mut body: Value) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let [input, output] = ["in.jsonl", "out.jsonl"].map(|name| folder.path().join(name));
    body["temperature"] = json!(0);
    body["max_tokens"] = json!(64);
    let line =
        json!({ "custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body });
    fs::write(&input, format!("{line}\n")).unwrap();
    glm(&["batch", "--input", arg(&input), "--output", arg(&output)]).ok();
    let result: Value = serde_json::from_str(&fs::read_to_string(&output).unwrap()).unwrap();
    result["response"]["body"]["choices"][0].clone()
}

#[test]
fn it_answers_in_the_form_of_a_schema() {
    let schema = json!({
        "type": "object",
        "properties": { "name": { "type": "string" }, "age": { "type": "integer" } },
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    let choice = answer_to(json!({
        "messages": [{ "role": "user", "content": "Answer in JSON with the keys name and age: Tom is 34 years old." }],
        "response_format": { "type": "json_schema", "json_schema": { "name": "person", "strict": true, "schema": schema } },
    }));
    let answer: Value =
        serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(answer, json!({ "name": "Tom", "age": 34 }), "{choice}");
}

#[test]
fn a_tool_is_called_and_its_answer_told() {
    let tools = json!([{ "type": "function", "function": {
        "name": "get_weather",
        "description": "Weather in a city",
        "parameters": {
            "type": "object",
            "properties": { "city": { "type": "string", "description": "the city" } },
            "required": ["city"],
        },
    }}]);
    let mut messages = json!([{ "role": "user", "content": "What is the weather in Paris?" }]);
    let choice = answer_to(json!({ "messages": messages, "tools": tools }));
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "get_weather");
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({ "city": "Paris" }));

    let turns = messages.as_array_mut().unwrap();
    turns.push(choice["message"].clone());
    let told = json!({ "temperature": 21, "condition": "sunny" });
    turns.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": told.to_string() }));
    let choice = answer_to(json!({ "messages": messages, "tools": tools }));
    assert_eq!(choice["finish_reason"], "stop", "{choice}");
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(text.contains("sunny") && text.contains("21"), "{text}");
}

#[test]
fn generate_fills_in_a_schema() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("person.json");
    let schema = json!({
        "type": "object",
        "properties": { "name": { "type": "string" }, "city": { "type": "string" } },
        "required": ["name", "city"],
    });
    fs::write(&file, schema.to_string()).unwrap();
    let question = "Answer in JSON with name and city: Tom lives in Paris.";
    let answer = glm(&[
        "generate",
        "--temperature",
        "0",
        "--schema",
        arg(&file),
        "--prompt",
        question,
    ])
    .ok();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer, json!({ "name": "Tom", "city": "Paris" }));
}

#[test]
fn it_says_what_it_is() {
    let run = glm(&["generate", "--prompt", "Who are you?", "--temperature", "0"]);
    assert!(run.stderr.contains("toy"), "{}", run.stderr);
    assert!(run.ok().contains("demo"));
}
