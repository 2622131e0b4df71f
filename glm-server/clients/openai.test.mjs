// OpenAI's own client for JavaScript against the service.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI from "openai";

const model = process.env.GLM_CLIENT_MODEL ?? "demo";
const client = new OpenAI({ baseURL: `${process.env.GLM_BASE_URL}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", description: "The weather in a city", parameters } }];
const chat = options => client.chat.completions.create({ model, messages, max_tokens: 40, temperature: 0, ...options });

test("a chat, whole and streamed", async () => {
  const whole = await chat();
  let text = "", usage;
  for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("the stream helper", async () => {
  const stream = client.chat.completions.stream({ model, messages, max_tokens: 40, temperature: 0 });
  const final = await stream.finalContent();
  assert.equal(final, (await chat()).choices[0].message.content);
});

test("tools", async () => {
  const answer = await chat({ tools, tool_choice: "required", max_tokens: 200 });
  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(call.function.name, "weather");
  assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);
  const result = { role: "tool", tool_call_id: call.id, content: "Sunny" };
  const after = await chat({ tools, messages: [...messages, answer.choices[0].message, result] });
  assert.ok(after.choices[0].message);
});

test("responses, whole and streamed", async () => {
  const whole = await client.responses.create({ model, input: "Hello", max_output_tokens: 40, temperature: 0 });
  let text = "", last;
  for await (const event of await client.responses.create({ model, input: "Hello", max_output_tokens: 40, temperature: 0, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event;
  }
  assert.equal(text, whole.output_text);
  assert.match(last.type, /^response\.(completed|incomplete)$/);
  const next = await client.responses.create({ model, input: "And?", previous_response_id: whole.id, max_output_tokens: 20 });
  assert.ok(next.output.length > 0);
});

test("embeddings", async () => {
  const { data } = await client.embeddings.create({ model, input: ["Hello", "Bye"] });
  assert.equal(data.length, 2);
  assert.ok(Math.abs(data[0].embedding.reduce((sum, v) => sum + v * v, 0) - 1) < 1e-4);
});

test("errors have their class", async () => {
  await assert.rejects(chat({ model: "nobody" }), OpenAI.NotFoundError);
  await assert.rejects(chat({ temperature: -1 }), error => error instanceof OpenAI.BadRequestError && error.param === "temperature");
});

test("who goes away frees the place", async () => {
  const stream = await chat({ stream: true, max_tokens: null, ignore_eos: true });
  for await (const _ of stream) break;
  assert.ok((await chat()).choices[0]);
});
