import assert from "node:assert/strict";
import { test } from "node:test";

import { EventParser, events } from "../../src/web/assets/sse.js";

const STREAM = "\ufeff: hello\r\ndata: one\r\n\r\nevent: x\ndata:two\ndata\ndata:  three\n\nid: 7\n\ndata: {\"a\": \"b: c\"}\r\rdata: 北京🙂\n\ndata: unfinished";
const DATA = ["one", "two\n\n three", '{"a": "b: c"}', "北京🙂"];

test("a stream may be cut anywhere", () => {
  for (let a = 0; a <= STREAM.length; a += 1) {
    for (let b = a; b <= STREAM.length; b += 7) {
      const parser = new EventParser();
      const parts = [STREAM.slice(0, a), STREAM.slice(a, b), STREAM.slice(b)];
      assert.deepEqual(parts.flatMap((part) => parser.push(part)), DATA, `at ${a} and ${b}`);
    }
  }
  const parser = new EventParser();
  assert.deepEqual([...STREAM].flatMap((char) => parser.push(char)), DATA);
});

test("bytes of a character may come apart", async () => {
  const bytes = new TextEncoder().encode(STREAM);
  const body = new ReadableStream({
    start(controller) {
      for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
      controller.close();
    },
  });
  const found = [];
  for await (const data of events(body)) found.push(data);
  assert.deepEqual(found, DATA);
});

test("who has enough ends the stream", async () => {
  let cancelled = false;
  const body = new ReadableStream({
    pull: (controller) => controller.enqueue(new TextEncoder().encode("data: x\n\n")),
    cancel: () => (cancelled = true),
  });
  for await (const data of events(body)) {
    assert.equal(data, "x");
    break;
  }
  assert.ok(cancelled);
});
