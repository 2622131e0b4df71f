import assert from "node:assert/strict";
import { test } from "node:test";

import { addChunk, emptyAnswer, openCalls, readTools, requestBody, titleOf } from "../../src/web/assets/answer.js";

const SETTINGS = { model: "", system: "", thinking: "model", offerTools: false, toolChoice: "auto", tools: "" };
const delta = (delta, finish_reason = null) => ({ choices: [{ index: 0, delta, finish_reason }] });

/** An answer that thinks, speaks and calls. */
function answered() {
  const answer = emptyAnswer();
  const call = (index, part) => delta({ tool_calls: [{ index, ...part }] });
  const chunks = [
    delta({ role: "assistant", content: "" }),
    delta({ reasoning_content: "hm" }),
    delta({ reasoning_content: "m" }),
    delta({ content: "Let me " }),
    delta({ content: "see." }),
    call(0, { id: "a", function: { name: "weather", arguments: "" } }),
    call(0, { function: { arguments: '{"city":' } }),
    call(0, { function: { arguments: '"Rome"}' } }),
    call(1, { id: "b", function: { name: "time", arguments: "{}" } }),
    delta({}, "tool_calls"),
    { choices: [], usage: { prompt_tokens: 7, completion_tokens: 9 } },
  ];
  chunks.forEach((chunk, i) => addChunk(answer, chunk, 100 + i));
  return answer;
}

test("chunks become an answer", () => {
  const { times, ...answer } = answered();
  assert.deepEqual(answer, {
    role: "assistant",
    reasoning: "hmm",
    content: "Let me see.",
    calls: [
      { id: "a", name: "weather", arguments: '{"city":"Rome"}' },
      { id: "b", name: "time", arguments: "{}" },
    ],
    finish: "tool_calls",
    error: null,
    usage: { prompt: 7, answer: 9 },
  });
  assert.deepEqual(times, { first: 101, thought: 102, last: 108 });
});

test("calls are open until they are answered, and only whole ones", () => {
  const answer = answered();
  assert.deepEqual(openCalls([answer]).map((call) => call.id), ["a", "b"]);
  assert.deepEqual(openCalls([answer, { role: "tool", id: "a", name: "weather", content: "" }]), []);
  assert.deepEqual(openCalls([{ ...answer, finish: "length" }]), []);
  assert.deepEqual(openCalls([]), []);
});

test("a conversation becomes a request", () => {
  const user = { role: "user", content: "Hi" };
  const tool = { role: "tool", id: "a", name: "weather", content: "sunny" };
  const settings = { ...SETTINGS, model: "demo", system: "Be brief.", temperature: "0", top_p: "", max_tokens: "12", thinking: "off" };
  const { messages, ...body } = requestBody([user, answered(), tool], settings);
  assert.deepEqual(body, {
    model: "demo",
    temperature: 0,
    max_tokens: 12,
    chat_template_kwargs: { enable_thinking: false },
    stream: true,
    stream_options: { include_usage: true },
  });
  assert.deepEqual(messages.map((message) => message.role), ["system", "user", "assistant", "tool"]);
  assert.equal(messages[2].reasoning_content, "hmm");
  assert.deepEqual(messages[2].tool_calls[1], { id: "b", type: "function", function: { name: "time", arguments: "{}" } });
  assert.deepEqual(messages[3], { role: "tool", tool_call_id: "a", name: "weather", content: "sunny" });
  // What was thought before the latest question is over.
  const later = requestBody([user, answered(), tool, user], settings);
  assert.equal(later.messages[2].reasoning_content, undefined);
});

test("tools go with the request when they are on, and a forced one is forced once", () => {
  const tools = '[{"name": "weather", "parameters": {}}, {"type": "function", "function": {"name": "time"}}]';
  const settings = { ...SETTINGS, tools, toolChoice: "required" };
  const user = { role: "user", content: "Hi" };
  assert.equal(requestBody([user], settings).tools, undefined);
  settings.offerTools = true;
  const body = requestBody([user], settings);
  assert.deepEqual(body.tools.map((tool) => tool.function.name), ["weather", "time"]);
  assert.equal(body.tool_choice, "required");
  const tool = { role: "tool", id: "a", name: "weather", content: "sunny" };
  assert.equal(requestBody([user, answered(), tool], settings).tool_choice, undefined);
});

test("tools that are none are refused", () => {
  assert.deepEqual(readTools("  "), []);
  assert.throws(() => readTools("{"), SyntaxError);
  assert.throws(() => readTools('[{"type": "function"}]'), /tool 1 has no name/);
  assert.throws(() => readTools("[null]"), /tool 1 has no name/);
});

test("titles are short and whole characters", () => {
  assert.equal(titleOf([]), "New conversation");
  assert.equal(titleOf([{ role: "user", content: "  你好\nmore" }]), "你好");
  assert.equal(titleOf([{ role: "user", content: "🙂".repeat(60) }]), `${"🙂".repeat(47)}…`);
});
