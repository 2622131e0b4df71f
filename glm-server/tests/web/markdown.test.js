import assert from "node:assert/strict";
import { test } from "node:test";

import { inline, parse, safeAddress } from "../../src/web/assets/markdown.js";

/** A tree without sources, as nested lists that are easy to write down. */
function brief(block) {
  if (typeof block === "string") return block;
  if (Array.isArray(block)) return block.map(brief);
  const { type } = block;
  if (type === "code") return [type, ...(block.language === undefined ? [] : [block.language]), block.text];
  if (type === "list") return [block.ordered ? "ol" : "ul", ...block.items.map((item) => item.map(brief))];
  if (type === "table") return [type, ...block.rows.map((row) => row.map((cell) => cell.map(brief)))];
  if (type === "break" || type === "rule") return [type];
  const extra = type === "link" ? [block.href] : type === "heading" ? [block.level] : [];
  return [type, ...extra, ...block.children.map(brief)];
}

for (const [name, text, tree] of [
  ["paragraphs", "one\ntwo\n\n\nthree", [["paragraph", "one", ["break"], "two"], ["paragraph", "three"]]],
  ["headings", "# One\n### Two ###\n#no\n## C#", [
    ["heading", 1, "One"], ["heading", 3, "Two"], ["paragraph", "#no"], ["heading", 2, "C#"],
  ]],
  ["code", "a\n```rust\nfn *x*() {}\n\n```\nb", [["paragraph", "a"], ["code", "rust", "fn *x*() {}\n"], ["paragraph", "b"]]],
  ["code that goes on", "```\nlet a", [["code", "", "let a"]]],
  ["code in longer marks", "````md\n```\nx\n```\n````", [["code", "md", "```\nx\n```"]]],
  ["a rule", "a\n\n---\n* * *", [["paragraph", "a"], ["rule"], ["rule"]]],
  ["a quote", "> a\n> > b\nc", [["quote", ["paragraph", "a"], ["quote", ["paragraph", "b"]]], ["paragraph", "c"]]],
  ["a list", "- a\n- b\n  c\n\nd", [["ul", [["paragraph", "a"]], [["paragraph", "b", ["break"], "c"]]], ["paragraph", "d"]]],
  ["numbers", "3. a\n4. b", [["ol", [["paragraph", "a"]], [["paragraph", "b"]]]]],
  ["a list in a list", "1. a\n   - b\n   - c\n2. d", [
    ["ol", [["paragraph", "a"], ["ul", [["paragraph", "b"]], [["paragraph", "c"]]]], [["paragraph", "d"]]],
  ]],
  ["a list with air", "- a\n\n- b\n\n1. c", [["ul", [["paragraph", "a"]], [["paragraph", "b"]]], ["ol", [["paragraph", "c"]]]]],
  ["code in a list", "- a\n  ```\n  x\n  ```", [["ul", [["paragraph", "a"], ["code", "", "x"]]]]],
  ["a list after text", "such as:\n- a", [["paragraph", "such as:"], ["ul", [["paragraph", "a"]]]]],
  ["a table", "| a | b |\n|---|--:|\n| 1 | `|` |\n\nx", [
    ["table", [["a"], ["b"]], [["1"], ["`"]]], ["paragraph", "x"],
  ]],
  ["no table", "a | b\nc", [["paragraph", "a | b", ["break"], "c"]]],
  ["HTML", "<img src=x onerror=alert(1)>", [["paragraph", "<img src=x onerror=alert(1)>"]]],
  ["Chinese", "**北京**是`首都`。", [["paragraph", ["strong", "北京"], "是", ["code", "首都"], "。"]]],
]) {
  test(`blocks: ${name}`, () => assert.deepEqual(parse(text).map(brief), tree));
}

for (const [text, tree] of [
  ["a **b _c_** ~~d~~", ["a ", ["strong", "b ", ["em", "c"]], " ", ["del", "d"]]],
  ["*a **b** c*", [["em", "a ", ["strong", "b"], " c"]]],
  ["snake_case_name and 2 * 3 * 4", ["snake_case_name and 2 * 3 * 4"]],
  ["**open", ["**open"]],
  ["`` a`b `` `", [["code", "a`b"], " `"]],
  ["\\*a\\* \\x", ["*a* \\x"]],
  ["[b](https://b.example/c) [bad](javascript:alert(1))", [["link", "https://b.example/c", "b"], " [bad](javascript:alert(1))"]],
  ["see https://a.example/x?y=1. And", ["see ", ["link", "https://a.example/x?y=1", "https://a.example/x?y=1"], ". And"]],
  ["xhttps://a.example", ["xhttps://a.example"]],
]) {
  test(`inline: ${text}`, () => assert.deepEqual(inline(text).map(brief), tree));
}

test("only places to go to are addresses", () => {
  for (const bad of ["javascript:alert(1)", "JaVaScRiPt:x", "data:text/html,x", "file:///etc/passwd", "/x", "vbscript:x", " "]) {
    assert.equal(safeAddress(bad), null, bad);
  }
  assert.equal(safeAddress("mailto:a@b.example"), "mailto:a@b.example");
});

/** All text of a tree. */
function words(part) {
  if (typeof part === "string") return part;
  if (Array.isArray(part)) return part.map(words).join("");
  return (part.text ?? "") + words(part.children ?? []) + words(part.items ?? []) + words(part.rows ?? []);
}

test("however much of a text is there, its words are shown, and blocks that are over stay as they are", () => {
  const text = "# Head\n\nsome *text* and `code`\n\n- one\n- two\n\n```\nlet x = 1;\n```\n\n> quoted\n\n| a | b |\n|---|---|\n| c | d |\n\nend";
  const whole = parse(text);
  for (let end = 1; end <= text.length; end += 1) {
    const blocks = parse(text.slice(0, end));
    for (const [i, block] of blocks.slice(0, -1).entries()) assert.equal(block.raw, whole[i].raw, `at ${end}`);
    const letters = (s) => s.replace(/[^\p{L}\p{N}]/gu, "");
    assert.equal(letters(words(blocks)), letters(text.slice(0, end)), `at ${end}`);
  }
});

test("hostile texts are read in time", () => {
  const n = 50_000;
  for (const part of ["*", "**a ", "_", "`", "[", "[a](", "> ", "- ", "|", "~", "\\", "*a_b`c[", "https://", "  - a\n", "``` `", "a|b\n-|-\n"]) {
    const blocks = parse(part.repeat(n / part.length));
    assert.ok(Array.isArray(blocks));
  }
  parse(Array.from({ length: 2000 }, (_, i) => `${" ".repeat(i)}- a`).join("\n"));
  parse(`${">".repeat(n)} a`);
  const gap = " ".repeat(n);
  for (const text of [`# a${gap}b`, `\`\`\`${gap}\``, `|\n${gap}x`, `|\n|${gap}x`, `# ${"#".repeat(n)}x`, `-${gap}x`, `\`${"a".repeat(n)} \``]) parse(text);
});
