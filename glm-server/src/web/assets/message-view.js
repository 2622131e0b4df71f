// Messages to elements.

import { copyButton, element } from "./dom.js";
import { showMarkdown } from "./markdown-view.js";

/** What a person or a tool has said. */
export function spokenView(message) {
  const who = message.role === "tool" ? `Answer of ${message.name}` : "You";
  return element(
    "article",
    { class: `message ${message.role}` },
    element("p", { class: "who" }, who),
    element("div", { class: "body" }, message.content),
  );
}

/** An answer that grows. */
export class AnswerView {
  #answer;
  #thoughtText = element("div");
  #thoughtHead = element("summary");
  #thought = element("details", { class: "thought", hidden: true }, this.#thoughtHead, this.#thoughtText);
  #body = element("div", { class: "body" });
  #calls = element("div");
  #end = element("p", { class: "ended", hidden: true });
  #error = element("p", { class: "error", role: "alert", hidden: true });
  #stats = element("span", { class: "stats" });
  #foot = element("div", { class: "foot", hidden: true });
  element;

  /** `regenerate()` asks for another answer in place of this one. */
  constructor(answer, model, regenerate) {
    this.#answer = answer;
    const again = element("button", { type: "button", class: "quiet again", onclick: regenerate }, "Regenerate");
    this.#foot.append(copyButton(() => answer.content), again, this.#stats);
    this.element = element(
      "article",
      { class: "message assistant" },
      element("p", { class: "who" }, model || "GLM"),
      this.#thought,
      this.#body,
      this.#calls,
      this.#end,
      this.#error,
      this.#foot,
    );
  }

  /** Shows how far the answer is. */
  update(isStreaming) {
    const answer = this.#answer;
    this.element.classList.toggle("streaming", isStreaming);
    this.element.setAttribute("aria-busy", isStreaming);
    this.#thought.hidden = answer.reasoning === "";
    this.#thoughtText.textContent = answer.reasoning;
    const thinks = isStreaming && answer.content === "" && answer.calls.length === 0;
    this.#thoughtHead.textContent = thinks ? "Thinking…" : thoughtTitle(answer.times);
    showMarkdown(this.#body, answer.content);
    this.#calls.replaceChildren(...answer.calls.map(callView));
    this.#end.textContent = endOf(answer);
    this.#end.hidden = isStreaming || this.#end.textContent === "";
    this.#error.textContent = answer.error ?? "";
    this.#error.hidden = !answer.error;
    this.#foot.hidden = isStreaming;
    this.#stats.textContent = statsOf(answer);
  }

  /** Asks for what the tools answer; `send(texts)` gets it, call by call. */
  askForAnswers(calls, send) {
    const fields = calls.map((call, i) => {
      const field = element("textarea", { rows: "2", spellcheck: "false", placeholder: '{"result": …}' });
      this.#calls.children[i].append(element("label", {}, `Answer of ${call.name}`, field));
      return field;
    });
    const submit = () => send(fields.map((field) => field.value));
    const button = element("button", { type: "button", class: "primary", onclick: submit }, calls.length > 1 ? "Send answers" : "Send answer");
    for (const field of fields) {
      field.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
      });
    }
    this.#calls.append(button);
    fields[0].focus({ preventScroll: true });
  }
}

function callView(call) {
  return element("div", { class: "call" }, "calls ", element("b", {}, call.name), element("pre", {}, pretty(call.arguments)));
}

/** JSON with line ends if it is JSON already, and as far as it has come if not. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function thoughtTitle({ first, thought }) {
  const time = thought - first;
  return time >= 1000 ? `Thought for ${Math.round(time / 1000)} s` : "Thought";
}

function endOf({ finish, error }) {
  if (error) return "";
  if (finish === "length") return "It could be longer: the limit of tokens is reached.";
  return finish === "stopped" ? "Stopped." : "";
}

function statsOf({ usage, times }) {
  if (!usage || times.first === undefined) return "";
  const parts = [`${usage.answer} tokens`, `first after ${Math.round(times.first - times.sent)} ms`];
  const seconds = (times.last - times.first) / 1000;
  // One token has no speed.
  if (usage.answer > 1 && seconds > 0) parts.push(`${Math.round((usage.answer - 1) / seconds)} per second`);
  return parts.join(" · ");
}
