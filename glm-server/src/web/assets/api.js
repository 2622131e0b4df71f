// The service's interface over HTTP.

import { events } from "./sse.js";

/** What the service refused, or what became of the connection. `status` is 0 if there was no answer. */
export class ApiError extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** `key()` is the API key, or nothing. */
export class Api {
  #key;

  constructor(key) {
    this.#key = key;
  }

  /** The names of the model and its adapters. */
  async models(signal) {
    const response = await this.#fetch("/v1/models", { signal });
    const list = await response.json();
    return list.data.map((model) => model.id);
  }

  /** The chunks of a streamed answer. */
  async *chat(body, signal) {
    const response = await this.#fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message);
      yield chunk;
    }
    throw new ApiError("the connection broke off before the answer was complete");
  }

  /** What the service does, about once a second. */
  async *watch(signal) {
    const response = await this.#fetch("/dashboard/events", { signal });
    for await (const data of events(response.body)) yield JSON.parse(data);
  }

  async #fetch(path, options) {
    const key = this.#key();
    const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("the service cannot be reached");
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    const message = body?.error?.message ?? `the service answered with status ${response.status}`;
    throw new ApiError(message, response.status, response.headers.get("retry-after"));
  }
}
