// The conversation on the page: what is asked, what comes, and what is kept of it.

import { ApiError } from "./api.js";
import { addChunk, emptyAnswer, openCalls, requestBody, titleOf } from "./answer.js";
import { byId, element } from "./dom.js";
import { AnswerView, spokenView } from "./message-view.js";
import * as store from "./store.js";

const SUGGESTIONS = ["Hello! What can you do?", "Tell me a short story.", "法国的首都是哪里？", "What is 12 + 7?"];
/** This near to the end of the log, in pixels, somebody reads along. */
const NEAR = 60;

export class Chat {
  #api;
  #settings;
  #conversation = store.newConversation();
  #log = byId("log");
  /** Ends the answer that is under way. */
  #running = null;

  constructor(api, settings) {
    this.#api = api;
    this.#settings = settings;
    const [latest] = store.conversations();
    if (latest) this.#conversation = latest;
    this.#show();
  }

  get isRunning() {
    return this.#running !== null;
  }

  /** Says something; whether it could be asked. */
  send(text) {
    const content = text.trim();
    if (this.isRunning || content === "") return false;
    return this.#ask([{ role: "user", content }]);
  }

  stop() {
    this.#running?.abort();
  }

  fresh() {
    this.stop();
    this.#conversation = store.newConversation();
    this.#show();
  }

  open(id) {
    this.stop();
    const found = store.conversations().find((conversation) => conversation.id === id);
    if (found) this.#conversation = found;
    this.#show();
  }

  delete(id) {
    store.deleteConversation(id);
    if (id === this.#conversation.id) this.fresh();
    else this.#showList();
  }

  /** Another answer in place of the last one. */
  #regenerate() {
    const { messages } = this.#conversation;
    if (this.isRunning || messages.at(-1)?.role !== "assistant") return;
    const settings = this.#settings.valid();
    if (!settings) return;
    messages.pop();
    this.#log.lastElementChild.remove();
    this.#answer(settings);
  }

  /** Adds messages and asks for the answer to them. */
  #ask(added) {
    const settings = this.#settings.valid();
    if (!settings) return false;
    const { messages } = this.#conversation;
    if (messages.length === 0) this.#log.replaceChildren();
    messages.push(...added);
    this.#conversation.title = titleOf(messages);
    for (const message of added) this.#log.append(spokenView(message));
    this.#answer(settings);
    return true;
  }

  async #answer(settings) {
    const conversation = this.#conversation;
    const body = requestBody(conversation.messages, settings);
    const answer = emptyAnswer();
    answer.model = settings.model;
    conversation.messages.push(answer);
    for (const button of this.#log.querySelectorAll(".again")) button.remove();
    const view = this.#answerView(answer);
    const running = new AbortController();
    this.#setRunning(running);
    this.#keep(conversation);
    // One drawing for each picture of the screen, however quickly tokens come.
    let frame = 0;
    const draw = () => {
      frame = 0;
      this.#following(() => view.update(running === this.#running));
    };
    draw();
    answer.times.sent = performance.now();
    try {
      for await (const chunk of this.#api.chat(body, running.signal)) {
        addChunk(answer, chunk, performance.now());
        frame ||= requestAnimationFrame(draw);
      }
    } catch (error) {
      if (running.signal.aborted) answer.finish = "stopped";
      else answer.error = describe(error);
    }
    cancelAnimationFrame(frame);
    if (running === this.#running) this.#setRunning(null);
    draw();
    this.#keep(conversation);
    if (conversation === this.#conversation) this.#following(() => this.#offerTools(view));
  }

  #answerView(answer) {
    const view = new AnswerView(answer, answer.model, () => this.#regenerate());
    this.#log.append(view.element);
    return view;
  }

  /** If the last answer calls tools, somebody has to answer for them. */
  #offerTools(view) {
    const calls = openCalls(this.#conversation.messages);
    if (calls.length === 0) return;
    view.askForAnswers(calls, (texts) => {
      const { messages } = this.#conversation;
      if (this.isRunning || openCalls(messages) !== calls) return;
      const answers = calls.map(({ id, name }, i) => ({ role: "tool", id, name, content: texts[i] }));
      if (this.#ask(answers)) {
        view.update(false);
        byId("draft").focus();
      }
    });
  }

  /** Does what makes the log longer; who reads its end goes on to do so. */
  #following(grow) {
    const log = this.#log;
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
    grow();
    if (follows) log.scrollTop = log.scrollHeight;
  }

  #setRunning(running) {
    this.#running = running;
    byId("stop").hidden = running === null;
    byId("send").hidden = running !== null;
    this.#log.setAttribute("aria-busy", running !== null);
  }

  /** Unless it has been deleted meanwhile, or never begun. */
  #keep(conversation) {
    conversation.updated = Date.now();
    const kept = store.saveConversation(conversation);
    byId("notice").hidden = kept;
    if (!kept) byId("notice").textContent = "This browser keeps nothing of this conversation: its storage is full or forbidden.";
    this.#showList();
  }

  #show() {
    const { messages } = this.#conversation;
    this.#log.replaceChildren();
    if (messages.length === 0) this.#log.append(this.#welcome());
    let view = null;
    for (const message of messages) {
      if (message.role === "assistant") {
        view = this.#answerView(message);
        view.update(false);
      } else {
        this.#log.append(spokenView(message));
      }
    }
    const agains = [...this.#log.querySelectorAll(".again")];
    const keepsLast = messages.at(-1)?.role === "assistant";
    for (const button of agains.slice(0, keepsLast ? -1 : undefined)) button.remove();
    if (view) this.#offerTools(view);
    this.#log.scrollTop = this.#log.scrollHeight;
    this.#showList();
  }

  #showList() {
    const rows = store.conversations().map(({ id, title }) => {
      const open = element("button", { type: "button", class: "open", title, onclick: () => this.open(id) }, title);
      const remove = element(
        "button",
        { type: "button", class: "delete", "aria-label": `Delete ${title}`, onclick: () => this.delete(id) },
        "×",
      );
      return element("li", { "aria-current": id === this.#conversation.id ? "true" : null }, open, remove);
    });
    byId("conversations").replaceChildren(...rows);
  }

  #welcome() {
    const button = (text) => element("button", { type: "button", onclick: () => this.send(text) }, text);
    return element(
      "div",
      { class: "welcome" },
      element("h2", {}, "What would you like to know?"),
      element("p", {}, "Everything you say stays between this page and the service."),
      element("div", { class: "suggestions" }, ...SUGGESTIONS.map(button)),
    );
  }
}

function describe(error) {
  if (!(error instanceof ApiError)) return `The page could not read the answer: ${error.message}`;
  if (error.status === 401 || error.status === 403) return `${error.message} (the API key is among the settings)`;
  return error.retryAfter ? `${error.message} (again in ${error.retryAfter} s)` : error.message;
}
