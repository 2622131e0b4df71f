// A headless Chromium, driven through the DevTools protocol over a pipe: nothing to install but the browser.

import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** How long anything may take, in milliseconds: only a failure takes as long. */
const PATIENCE = 60_000;

export class Browser {
  #process;
  #folder;
  #in;
  #out;
  #next = 1;
  #pending = new Map();
  #listeners = [];

  static async launch(program = process.env.CHROMIUM ?? "chromium") {
    const browser = new Browser();
    browser.#folder = await mkdtemp(join(tmpdir(), "page-test-"));
    const options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", "--no-first-run"];
    // The browser reads commands from its file 3 and writes to its file 4.
    browser.#process = spawn(program, [...options, `--user-data-dir=${browser.#folder}`, "about:blank"], {
      stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
    });
    const failed = new Promise((_, reject) => browser.#process.once("error", reject));
    [, , , browser.#in, browser.#out] = browser.#process.stdio;
    let rest = "";
    browser.#out.setEncoding("utf8").on("data", (text) => {
      const messages = (rest + text).split("\0");
      rest = messages.pop();
      for (const message of messages) browser.#receive(JSON.parse(message));
    });
    await Promise.race([failed, browser.send("Browser.getVersion")]);
    return browser;
  }

  #receive({ id, result, error, method, params, sessionId }) {
    if (id === undefined) {
      for (const listener of this.#listeners) listener(method, params, sessionId);
      return;
    }
    const { resolve, reject, method: asked } = this.#pending.get(id);
    this.#pending.delete(id);
    if (error) reject(new Error(`${asked}: ${error.message}`));
    else resolve(result);
  }

  send(method, params = {}, sessionId = undefined) {
    const id = this.#next++;
    this.#in.write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${method}: no answer`)), PATIENCE);
      const after = (settle) => (value) => {
        clearTimeout(timer);
        settle(value);
      };
      this.#pending.set(id, { resolve: after(resolve), reject: after(reject), method });
    });
  }

  on(listener) {
    this.#listeners.push(listener);
  }

  /** An empty page of this size. */
  async page(width = 1280, height = 800) {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this, sessionId);
    await page.begin(width, height);
    return page;
  }

  async close() {
    const ended = new Promise((resolve) => this.#process.once("exit", resolve));
    this.#process.kill("SIGKILL");
    await ended;
    await rm(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

class Page {
  #browser;
  #session;
  /** What the page complained about: exceptions, errors on the console, broken policies. */
  complaints = [];

  constructor(browser, session) {
    this.#browser = browser;
    this.#session = session;
    browser.on((method, params, sessionId) => {
      if (sessionId === session) this.#hear(method, params);
    });
  }

  async begin(width, height) {
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await this.#send(`${domain}.enable`);
    await this.resize(width, height);
  }

  #hear(method, params) {
    if (method === "Runtime.exceptionThrown") {
      const { exceptionDetails: details } = params;
      this.complaints.push(details.exception?.description ?? details.text);
    } else if (method === "Runtime.consoleAPICalled" && ["error", "warning", "assert"].includes(params.type)) {
      this.complaints.push(params.args.map((arg) => arg.value ?? arg.description).join(" "));
    } else if (method === "Log.entryAdded" && ["error", "warning"].includes(params.entry.level)) {
      this.complaints.push(`${params.entry.text} ${params.entry.url ?? ""}`);
    }
  }

  #send(method, params) {
    return this.#browser.send(method, params, this.#session);
  }

  resize(width, height) {
    return this.#send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 600 });
  }

  /** `light` or `dark`, as the system would say. */
  prefer(scheme) {
    return this.#send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  }

  async open(url) {
    await this.#send("Page.navigate", { url });
    await this.until("document.readyState === 'complete'");
  }

  /** The value of an expression in the page. */
  async value(expression) {
    const { result, exceptionDetails: failure } = await this.#send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    if (failure) throw new Error(`${expression}: ${failure.exception?.description ?? failure.text}`);
    return result.value;
  }

  /** Waits until an expression is true, looking at every picture that is drawn. */
  async until(expression) {
    const deadline = Date.now() + PATIENCE;
    while (!(await this.value(`Boolean(${expression})`).catch(() => false))) {
      if (Date.now() > deadline) throw new Error(`never true: ${expression}\n${await this.value("document.body.innerText")}`);
      await this.value("new Promise((drawn) => { requestAnimationFrame(drawn); setTimeout(drawn, 100); })").catch(() => {});
    }
  }

  async click(selector) {
    const point = await this.value(`(() => {
      const found = document.querySelector(${JSON.stringify(selector)});
      if (!found) return null;
      found.scrollIntoView({ block: "nearest" });
      const { x, y, width, height } = found.getBoundingClientRect();
      return width && height && { x: x + width / 2, y: y + height / 2 };
    })()`);
    if (!point) throw new Error(`nothing to click at: ${selector}`);
    const event = { ...point, button: "left", clickCount: 1 };
    await this.#send("Input.dispatchMouseEvent", { ...event, type: "mousePressed" });
    await this.#send("Input.dispatchMouseEvent", { ...event, type: "mouseReleased" });
  }

  /** Types where the focus is. */
  type(text) {
    return this.#send("Input.insertText", { text });
  }

  async press(key, modifiers = 0) {
    const texts = { Enter: "\r" };
    const event = { key, code: key, modifiers, windowsVirtualKeyCode: { Enter: 13, Escape: 27, Tab: 9, ArrowRight: 39 }[key] ?? 0 };
    await this.#send("Input.dispatchKeyEvent", { ...event, type: "keyDown", text: modifiers === 0 ? texts[key] : undefined });
    await this.#send("Input.dispatchKeyEvent", { ...event, type: "keyUp" });
  }

  /** Puts text into a field as somebody would who selects all of it and types. */
  async fill(selector, text) {
    await this.value(`(() => { const field = document.querySelector(${JSON.stringify(selector)}); field.focus(); field.select(); })()`);
    if (text === "") await this.value("document.execCommand('delete')");
    else await this.type(text);
  }

  async screenshot(path) {
    const { data } = await this.#send("Page.captureScreenshot", { format: "png" });
    await writeFile(path, Buffer.from(data, "base64"));
  }
}
