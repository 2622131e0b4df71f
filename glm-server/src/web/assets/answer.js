// A conversation as the page keeps it, to what the interface takes, and back.
//
// A message is {role: "user", content}, {role: "tool", id, name, content} or an answer:
// {role: "assistant", content, reasoning, calls: [{id, name, arguments}], finish, error, usage, times}.

/** An answer that has not begun. */
export function emptyAnswer() {
  return { role: "assistant", content: "", reasoning: "", calls: [], finish: null, error: null, usage: null, times: {} };
}

/** Adds a chunk of a stream to an answer. `now` is in milliseconds. */
export function addChunk(answer, chunk, now) {
  if (chunk.usage) answer.usage = { prompt: chunk.usage.prompt_tokens, answer: chunk.usage.completion_tokens };
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
  if (content || reasoning || calls) {
    answer.times.first ??= now;
    answer.times.last = now;
  }
  if (reasoning) {
    answer.reasoning += reasoning;
    answer.times.thought = now;
  }
  if (content) answer.content += content;
  for (const part of calls ?? []) {
    const call = (answer.calls[part.index] ??= { id: "", name: "", arguments: "" });
    if (part.id) call.id = part.id;
    call.name += part.function?.name ?? "";
    call.arguments += part.function?.arguments ?? "";
  }
  if (choice.finish_reason) answer.finish = choice.finish_reason;
}

/** The calls that still want an answer: those of the last message that are followed by none. */
export function openCalls(messages) {
  const last = messages.at(-1);
  // A call that was cut off cannot be answered: its arguments are not whole.
  return last?.role === "assistant" && last.finish === "tool_calls" ? last.calls : [];
}

/** The body of the request that asks for the next answer. */
export function requestBody(messages, settings) {
  const body = {
    messages: [...systemMessage(settings), ...messages.map((message, i) => apiMessage(message, i, messages))],
    stream: true,
    stream_options: { include_usage: true },
  };
  if (settings.model) body.model = settings.model;
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    const value = settings[name];
    if (value !== null && value !== undefined && value !== "") body[name] = Number(value);
  }
  if (settings.thinking === "on" || settings.thinking === "off") {
    body.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  }
  const tools = settings.offerTools ? readTools(settings.tools) : [];
  if (tools.length > 0) {
    body.tools = tools;
    // A tool that has to be called is called once: the answer to its answer may be text.
    if (settings.toolChoice !== "auto" && messages.at(-1)?.role !== "tool") body.tool_choice = settings.toolChoice;
  }
  return body;
}

function systemMessage({ system }) {
  return system?.trim() ? [{ role: "system", content: system }] : [];
}

function apiMessage(message, index, messages) {
  if (message.role === "tool") return { role: "tool", tool_call_id: message.id, name: message.name, content: message.content };
  if (message.role === "user") return { role: "user", content: message.content };
  const sent = { role: "assistant", content: message.content };
  // Thoughts of earlier turns are not shown to the model again, those of a turn that calls tools are.
  const goesOn = !messages.slice(index).some((later) => later.role === "user");
  if (message.reasoning && goesOn) sent.reasoning_content = message.reasoning;
  if (message.calls.length > 0) {
    const call = ({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } });
    sent.tool_calls = message.calls.map(call);
  }
  return sent;
}

/**
 * Tools from the text of a JSON list: OpenAI's objects, or functions alone. Throws an Error that says what is wrong.
 */
export function readTools(text) {
  if (!text?.trim()) return [];
  const read = JSON.parse(text);
  const list = Array.isArray(read) ? read : [read];
  return list.map((tool, i) => {
    const declared = tool?.type === "function" ? tool.function : tool;
    if (typeof declared?.name !== "string" || declared.name === "") throw new Error(`tool ${i + 1} has no name`);
    return { type: "function", function: declared };
  });
}

/** A short name for a conversation. */
export function titleOf(messages) {
  const first = messages.find((message) => message.role === "user")?.content.trim().split("\n")[0] ?? "";
  const letters = [...first];
  return letters.length > 48 ? `${letters.slice(0, 47).join("")}…` : first || "New conversation";
}
