// What the service does now, and did in the last two minutes.

import { ApiError } from "./api.js";
import { Chart } from "./chart.js";
import { element } from "./dom.js";

/** How long to wait before a connection that broke off is tried again, in milliseconds. */
const RETRY = 2000;

const whole = (value) => Math.round(value).toLocaleString("en");

/** Seconds as a person reads them. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 100) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

/** What happened per second between two events. */
export function rate(name, event, before) {
  const seconds = before ? event.uptime_s - before.uptime_s : 0;
  return seconds > 0 ? Math.max(0, event.counters[name] - before.counters[name]) / seconds : null;
}

/** A card with a value, a chart and its legend. */
class Card {
  #value = element("div", { class: "value" }, "–");
  #legend = null;
  #chart;
  element;

  constructor(title, lines = [], unit = "") {
    this.unit = unit;
    this.#chart = new Chart(`${title}, the last two minutes`, Math.max(lines.length, 1));
    const labels = lines.map((line, i) => element("span", { class: `line-${i}` }, element("i"), `${line} `, element("b", {}, "–")));
    if (lines.length > 0) this.#legend = element("div", { class: "legend" }, ...labels);
    this.element = element("section", { class: "card" }, element("h2", {}, title), this.#value, this.#chart.element, this.#legend);
  }

  show(text, values, legend = []) {
    this.#value.replaceChildren(text, element("small", {}, this.unit));
    this.#chart.push(values);
    legend.forEach((text, i) => (this.#legend.children[i].querySelector("b").textContent = text));
  }
}

export class Dashboard {
  #api;
  #watching = null;
  #before = null;
  #state = element("div", { class: "value state", role: "status" }, "connecting");
  #facts = element("div", { class: "legend" });
  #alerts = element("ul", { class: "alerts", "aria-live": "polite" });
  #generated = new Card("Generated tokens", [], "per second");
  #prompt = new Card("Prompt tokens", [], "per second");
  #first = new Card("Time to first token", ["p50", "p95", "p99"], "median, last minute");
  #between = new Card("Between two tokens", ["p50", "p95", "p99"], "median, last minute");
  #requests = new Card("Requests", ["running", "waiting"], "running");
  #kv = new Card("KV cache", ["in use", "kept for later"], "in use");
  #running = element("tbody");
  #none = element("p", { class: "hint" }, "Nothing runs.");

  constructor(host, api) {
    this.#api = api;
    const state = element("section", { class: "card full" }, element("h2", {}, "Service"), this.#state, this.#facts, this.#alerts);
    const cards = [this.#generated, this.#prompt, this.#requests, this.#first, this.#between, this.#kv];
    const head = element("tr", {}, ...["Request", "Of", "Asked for", "Age", "Prompt tokens", "Answer tokens"].map((name) => element("th", { scope: "col" }, name)));
    const table = element("table", { class: "requests" }, element("thead", {}, head), this.#running);
    const list = element("section", { class: "card full" }, element("h2", {}, "Running requests"), element("div", { class: "table" }, table), this.#none);
    host.append(element("div", { class: "board" }, state, ...cards.map((card) => card.element), list));
  }

  start() {
    if (this.#watching) return;
    this.#watching = new AbortController();
    this.#watch(this.#watching.signal);
  }

  stop() {
    this.#watching?.abort();
    this.#watching = null;
  }

  async #watch(signal) {
    while (!signal.aborted) {
      try {
        for await (const event of this.#api.watch(signal)) this.#show(event);
      } catch (error) {
        if (signal.aborted) return;
        const needsKey = error instanceof ApiError && (error.status === 401 || error.status === 403);
        this.#setState("bad", needsKey ? "no access: this needs an API key that may read metrics" : error.message);
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }

  #setState(kind, text) {
    this.#state.className = `value state ${kind}`;
    this.#state.textContent = text;
  }

  #show(event) {
    this.#showState(event);
    const { engine, latency } = event;
    for (const [card, name] of [[this.#generated, "generated_tokens"], [this.#prompt, "prompt_tokens"]]) {
      const value = rate(name, event, this.#before);
      card.show(value === null ? "–" : whole(value), [value]);
    }
    for (const [card, { p50, p95, p99 }] of [[this.#first, latency.time_to_first_token_s], [this.#between, latency.inter_token_s]]) {
      card.show(duration(p50), [p50, p95, p99], [p50, p95, p99].map(duration));
    }
    this.#requests.show(whole(engine.running), [engine.running, engine.waiting], [whole(engine.running), whole(engine.waiting)]);
    const used = engine.kv_blocks_total - engine.kv_blocks_free;
    const share = (blocks) => `${((100 * blocks) / Math.max(engine.kv_blocks_total, 1)).toFixed(1)} %`;
    this.#kv.show(share(used), [used, engine.kv_blocks_cached], [share(used), share(engine.kv_blocks_cached)]);
    this.#showRequests(event.requests);
    this.#before = event;
  }

  #showState({ health, phase, model, uptime_s: uptime }) {
    const kind = { healthy: "good", degraded: "warn", unhealthy: "bad" }[health.status] ?? "warn";
    this.#setState(kind, phase === "ready" ? health.status : `${phase} (${health.status})`);
    const facts = [["model", model ?? "being loaded"], ["up for", duration(uptime)]];
    if (health.score !== null) facts.unshift(["health", `${Math.round(health.score)} of 100`]);
    this.#facts.replaceChildren(...facts.map(([name, value]) => element("span", {}, `${name} `, element("b", {}, value))));
    this.#alerts.replaceChildren(...health.alerts.map((alert) => element("li", { class: "warn" }, alert)));
  }

  #showRequests({ list, count }) {
    const row = ({ id, tenant, endpoint, age_s: age, prompt_tokens: prompt, completion_tokens: answer }) => {
      const cells = [id.slice(-8), tenant, endpoint, duration(age), whole(prompt), whole(answer)];
      return element("tr", {}, ...cells.map((text, i) => element("td", i === 0 ? { title: id } : {}, text)));
    };
    this.#running.replaceChildren(...list.map(row));
    const more = count - list.length;
    this.#none.textContent = more > 0 ? `and ${whole(more)} more` : "Nothing runs.";
    this.#none.hidden = count > 0 && more === 0;
  }
}
