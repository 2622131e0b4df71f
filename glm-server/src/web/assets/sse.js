// Server-sent events out of a response (HTML standard, "Server-sent events"). EventSource cannot post, nor send an API key.

/** Takes the text of a stream in pieces, however it is cut, and gives the data of its events. */
export class EventParser {
  #rest = "";
  #data = [];
  #begun = false;

  /** The data of the events that this piece completes. */
  push(text) {
    if (!this.#begun && text !== "") {
      this.#begun = true;
      if (text.startsWith("\ufeff")) text = text.slice(1);
    }
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    // A line is over when its end has come; a CR at the very end may be half of one.
    this.#rest = lines.pop();
    return lines.flatMap((line) => this.#line(line));
  }

  #line(line) {
    if (line === "") {
      const data = this.#data.splice(0);
      return data.length === 0 ? [] : [data.join("\n")];
    }
    const [, field, value] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
    if (field === "data") this.#data.push(value);
    return [];
  }
}

/** The data of the events of a response's body, one by one. What is unfinished at the end is no event. */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Who leaves the loop early does not want the rest.
    reader.cancel().catch(() => {});
  }
}
