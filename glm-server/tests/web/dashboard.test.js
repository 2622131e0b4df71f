import assert from "node:assert/strict";
import { test } from "node:test";

import { pathOf } from "../../src/web/assets/chart.js";
import { duration, rate } from "../../src/web/assets/dashboard.js";

test("durations have the unit that people would choose", () => {
  const texts = [null, 0.00123, 0.0456, 1.26, 185, 9000, 400_000].map(duration);
  assert.deepEqual(texts, ["–", "1.2 ms", "46 ms", "1.3 s", "3 min", "3 h", "5 d"]);
});

test("rates are those between two events, and none at first or after a restart", () => {
  const event = (uptime_s, tokens) => ({ uptime_s, counters: { tokens } });
  assert.equal(rate("tokens", event(5, 30), null), null);
  assert.equal(rate("tokens", event(7, 40), event(5, 30)), 5);
  assert.equal(rate("tokens", event(1, 3), event(5, 30)), null);
});

test("a line has a gap where nothing was measured, and ends at the right", () => {
  assert.equal(pathOf([], 1), "");
  const path = pathOf([1, null, 0, 1], 1);
  assert.equal(path.match(/M/g).length, 2);
  assert.ok(path.endsWith("L300.0 1.0"), path);
});
