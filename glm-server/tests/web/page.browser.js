// The page in a real browser, against the real program with the demo model.
//
//   node page.browser.js PROGRAM [FOLDER]
//
// PROGRAM is `glm-cli`; screenshots go to FOLDER if one is named.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { Browser } from "./browser.js";

const [program, folder] = process.argv.slice(2);

/** Tokens of the longest answer: they take minutes on any machine. */
const LENGTH = 200_000;

/** Starts the service on a port that is free; its address. */
async function serve(args = [], env = {}) {
  const child = spawn(program, ["serve", "--port", "0", ...args], {
    env: { ...process.env, HF_HUB_OFFLINE: "1", ...env },
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [line] = await once(createInterface({ input: child.stdout }), "line");
  const address = line.replace("listening on ", "");
  const end = async () => {
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  };
  return { address, child, end };
}

/** The demo with room for answers that last until somebody stops them: its folder. */
function demoOfLength(length, folder) {
  const demo = join(folder, "demo");
  cpSync(join(import.meta.dirname, "../../../models/demo"), demo, { recursive: true });
  const config = join(demo, "config.json");
  writeFileSync(config, JSON.stringify({ ...JSON.parse(readFileSync(config, "utf8")), max_position_embeddings: length }));
  return demo;
}

const last = ".message.assistant:last-of-type";
const quiet = "document.querySelector('#stop').hidden";
const textOf = (selector) => `(document.querySelector(${JSON.stringify(selector)})?.textContent ?? "")`;
const count = (selector) => `document.querySelectorAll(${JSON.stringify(selector)}).length`;

/** Says something and waits for the whole answer; its text. */
async function say(page, text) {
  const before = await page.value(count(".message.assistant"));
  await page.fill("#draft", text);
  await page.press("Enter");
  await page.until(`${count(".message.assistant")} > ${before} && ${quiet}`);
  return page.value(textOf(`${last} .body`));
}

async function set(page, name, value) {
  await page.value(`(() => {
    const field = document.querySelector("#settings [name=${name}]");
    if (field.type === "checkbox") field.checked = ${JSON.stringify(value)};
    else field.value = ${JSON.stringify(value)};
    field.dispatchEvent(new Event("input", { bubbles: true }));
  })()`);
}

const shot = (page, name) => (folder ? page.screenshot(join(folder, `${name}.png`)) : null);

/** Answers stream in, in both languages, and the page goes on where it was when it is opened again. */
async function conversation(page, { address }) {
  await page.open(address);
  await page.until(`${textOf("#model-name")} === "demo"`);
  await set(page, "temperature", "0");
  await set(page, "thinking", "off");
  // Every state that the answer goes through is seen: it has to grow. Its parts come one after the other, however fast they are made and
  // however slow the page is.
  await page.value(`(() => {
    const ask = window.fetch;
    const slowly = new TransformStream({
      async transform(text, controller) {
        for (const event of text.split(/(?<=\\n\\n)/)) {
          controller.enqueue(event);
          await new Promise((later) => setTimeout(later, 30));
        }
      },
    });
    window.fetch = async (path, options) => {
      const response = await ask(path, options);
      if (!options?.body) return response;
      return new Response(response.body.pipeThrough(new TextDecoderStream()).pipeThrough(slowly).pipeThrough(new TextEncoderStream()), response);
    };
    window.restore = () => (window.fetch = ask);
    window.lengths = new Set();
    new MutationObserver(() => {
      const body = document.querySelector("${last}.streaming .body");
      if (body) window.lengths.add(body.textContent.length);
    }).observe(document.querySelector("#log"), { childList: true, subtree: true, characterData: true });
  })()`);
  assert.match(await say(page, "Tell me a short story."), /\w+ \w+ \w+/);
  assert.ok((await page.value("window.lengths.size")) >= 2, "the answer came at once");
  await page.value("window.restore()");
  assert.match(await say(page, "法国的首都是哪里？"), /巴黎/);
  assert.match(await page.value(textOf(`${last} .stats`)), /\d+ tokens · first after \d+ ms/);
  await shot(page, "chat");
  await page.open(address);
  await page.until(`${count(".message")} === 4`);
  assert.match(await page.value(textOf(`${last} .body`)), /巴黎/);
  assert.equal(await page.value(textOf("#conversations li[aria-current] .open")), "Tell me a short story.");
}

async function thinking(page) {
  await page.click("#new");
  await set(page, "thinking", "on");
  assert.match(await say(page, "What is the capital of France?"), /Paris/);
  const thought = `${last} .thought`;
  assert.equal(await page.value(`document.querySelector("${thought}").open`), false, "thoughts are folded");
  assert.match(await page.value(textOf(`${thought} summary`)), /^Thought/);
  await page.click(`${thought} summary`);
  assert.notEqual(await page.value(textOf(`${thought} div`)), "");
  await shot(page, "thinking");
  await set(page, "thinking", "off");
}

/** An answer without an end, until somebody stops it. */
async function stopAndRegenerate(page) {
  await page.click("#new");
  await set(page, "tools", "");
  await set(page, "temperature", "");
  await page.fill("#draft", "Count from 1 to 100.");
  // What makes answers long is no setting of the page.
  await page.value(`(() => {
    const ask = window.fetch;
    window.fetch = (path, options) => {
      if (!options?.body) return ask(path, options);
      return ask(path, { ...options, body: JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true, max_tokens: ${LENGTH - 1000} }) });
    };
    window.restore = () => (window.fetch = ask);
  })()`);
  await page.press("Enter");
  await page.until(`document.querySelector("${last} .body")?.textContent.length > 20`);
  await page.press("Escape");
  await page.until(quiet);
  assert.equal(await page.value(textOf(`${last} .ended`)), "Stopped.");
  const cut = await page.value(textOf(`${last} .body`));
  await page.value("window.restore()");
  await set(page, "max_tokens", "5");
  await page.click(`${last} .again`);
  await page.until(`${quiet} && ${textOf(`${last} .ended`)}.includes("limit of tokens")`);
  await set(page, "max_tokens", "");
  await set(page, "temperature", "0");
  assert.equal(await page.value(count(".message")), 2, "the new answer stands in place of the old one");
  const whole = await page.value(textOf(`${last} .body`));
  assert.ok(whole !== "" && whole !== cut, whole);
}

async function tools(page) {
  await page.click("#new");
  await page.click("#tools-example");
  await say(page, "What is the weather in Paris?");
  assert.equal(await page.value(textOf(`${last} .call b`)), "get_weather");
  assert.match(await page.value(textOf(`${last} .call pre`)), /"city": "Paris"/);
  await page.fill(`${last} .call textarea`, '{"temperature": 21, "condition": "sunny"}');
  await shot(page, "tools");
  await page.click(`${last} .primary`);
  await page.until(`${count(".message.assistant")} === 2 && ${quiet}`);
  assert.match(await page.value(textOf(`${last} .body`)), /sunny/);
  assert.equal(await page.value(count(".call textarea")), 0, "what is answered is not asked again");
  // A list that is none is said to be so, and nothing is sent.
  await set(page, "tools", "[{");
  assert.match(await page.value(textOf("#tools-problem")), /Not yet a list/);
  await page.fill("#draft", "Hello");
  await page.press("Enter");
  assert.equal(await page.value(count(".message")), 4);
  await set(page, "offerTools", false);
  await set(page, "tools", "");
  await page.fill("#draft", "");
}

/** What a model says is shown, not run. */
async function hostileAnswers(page) {
  await page.click("#new");
  const text = '<img src=x onerror="window.hit=1"><script>window.hit=1</script> [a](javascript:window.hit=1) **bold**\n\n```html\n<b>x</b>\n```';
  await page.value(`(() => {
    const ask = window.fetch;
    const chunk = { choices: [{ index: 0, delta: { content: ${JSON.stringify(text)} }, finish_reason: "stop" }] };
    window.fetch = (path, options) => (options?.body ? Promise.resolve(new Response("data: " + JSON.stringify(chunk) + "\\n\\ndata: [DONE]\\n\\n")) : ask(path, options));
    window.restore = () => (window.fetch = ask);
  })()`);
  const shown = await say(page, "<b>Hello</b> & you");
  assert.ok(shown.includes("<img src=x") && shown.includes("<b>x</b>"), shown);
  assert.equal(await page.value(`${count("#log img, #log script, #log a")} + (window.hit ?? 0)`), 0);
  assert.equal(await page.value(textOf(`${last} strong`)), "bold");
  assert.equal(await page.value(textOf(".message.user .body")), "<b>Hello</b> & you");
  await page.value("window.restore()");
}

/** Numbers change while requests run. */
async function dashboard(page) {
  await page.click("#tab-dashboard");
  await page.until("document.querySelector('.state.good')");
  const tokens = "[...document.querySelectorAll('.card')].find((card) => card.textContent.startsWith('Generated')).querySelector('.value').textContent";
  const load = page.value(`(async () => {
    const body = JSON.stringify({ messages: [{ role: "user", content: "Hi" }], ignore_eos: true, max_tokens: 1900 });
    const ask = () => fetch("/v1/chat/completions", { method: "POST", headers: { "content-type": "application/json" }, body });
    const until = Date.now() + 30_000;
    while (!window.seen && Date.now() < until) await Promise.all([ask(), ask(), ask()]);
  })()`);
  await page.until(`Number.parseInt(${tokens}) > 0`);
  await page.until(`${count(".requests tbody tr")} > 0`);
  await shot(page, "dashboard");
  await page.value("window.seen = true");
  await load;
  await page.until(`${count(".requests tbody tr")} === 0`);
  assert.match(await page.value(textOf("#dashboard")), /p99 [\d.]+ m?s/);
}

/** The keyboard alone is enough, and so is a phone. */
async function keyboardAndPhone(page) {
  await page.value("document.querySelector('#tab-dashboard').focus()");
  await page.press("ArrowRight");
  assert.equal(await page.value("document.activeElement.id"), "tab-chat");
  assert.equal(await page.value("document.querySelector('#chat').hidden"), false);
  await page.resize(390, 760);
  await page.until(`getComputedStyle(document.querySelector("#settings")).visibility === "hidden"`);
  assert.ok(await page.value("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen");
  await page.click("#show-settings");
  await page.until(`getComputedStyle(document.querySelector("#settings")).visibility === "visible"`);
  await shot(page, "phone-settings");
  await page.press("Escape");
  await page.until(`getComputedStyle(document.querySelector("#settings")).visibility === "hidden"`);
  await page.prefer("dark");
  await shot(page, "phone-dark");
  await page.resize(1280, 800);
  await page.prefer("light");
}

/** A service that wants a key says so, and gets it. */
async function key(browser) {
  const service = await serve([], { GLM_API_KEY: "secret-key" });
  const page = await browser.page();
  try {
    await page.open(service.address);
    await page.until(`${textOf("#notice")}.includes("API key")`);
    assert.ok(page.complaints.every((complaint) => complaint.includes("401")), page.complaints.join("\n"));
    page.complaints = [];
    await page.fill("#key", "secret-key");
    await page.press("Tab");
    await page.until(`${textOf("#model-name")} === "demo"`);
    await set(page, "temperature", "0");
    await set(page, "thinking", "off");
    assert.match(await say(page, "What is the capital of France?"), /Paris/);
    assert.equal(await page.value("JSON.stringify(localStorage).includes('secret-key')"), false);
    await page.click("#tab-dashboard");
    await page.until("document.querySelector('.state.good')");
    assert.deepEqual(page.complaints, []);
  } finally {
    await service.end();
  }
}

const browser = await Browser.launch();
const models = mkdtempSync(join(tmpdir(), "page-test-"));
const service = await serve(["--model", demoOfLength(LENGTH, models)]);
try {
  const page = await browser.page();
  for (const step of [conversation, thinking, stopAndRegenerate, tools, hostileAnswers, dashboard, keyboardAndPhone]) {
    await step(page, service);
    // A policy that is broken is a complaint too.
    assert.deepEqual(page.complaints, [], step.name);
    console.log(`ok: ${step.name}`);
  }
  await key(browser);
  console.log("ok: key");
} finally {
  await service.end();
  await browser.close();
  rmSync(models, { recursive: true });
}
