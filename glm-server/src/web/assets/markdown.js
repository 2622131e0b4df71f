// The part of Markdown that models write, to a tree. No HTML, neither read nor written; `markdown-view.js` makes elements of it.
//
// Blocks: {type: "paragraph" | "heading" | "quote", …, children}, {type: "code", language, text}, {type: "list", ordered, start,
// items: [blocks]}, {type: "table", align, rows: [[inline]]}, {type: "rule"}. Each has `raw`, its source: equal sources look equal.
// Inline: strings, {type: "strong" | "em" | "del", children}, {type: "code", text}, {type: "link", href, children}, {type: "break"}.
//
// Time is linear in the text for each level of nesting, and levels are bounded: answers are long, and read again as they grow. No
// regular expression here may try the same letters in more than one way.

const MAX_DEPTH = 8;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t](.*)$/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: +|$)/;
const TABLE_LINE = /^\|?(?: *:?-+:? *\|)+(?: *:?-+:?)?$/;

/** The blocks of a text. */
export function parse(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function blocks(lines, depth) {
  const found = [];
  for (let at = 0; at < lines.length; ) {
    if (lines[at].trim() === "") {
      at += 1;
      continue;
    }
    const [block, next] = blockAt(lines, at, depth);
    block.raw = lines.slice(at, next).join("\n");
    found.push(block);
    at = next;
  }
  return found;
}

/** The block that begins in a line, and the line after it. */
function blockAt(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [{ type: "heading", level: heading[1].length, children: inline(headingText(heading[2]), depth) }, at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (isTable(lines, at)) return table(lines, at, depth);
  if (depth < MAX_DEPTH && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return list(lines, at, depth);
  let end = at + 1;
  while (end < lines.length && !interrupts(lines, end)) end += 1;
  const text = lines.slice(at, end).map((part) => part.trimStart());
  return [{ type: "paragraph", children: inline(text.join("\n").trimEnd(), depth) }, end];
}

/** Without the marks that may close it. */
function headingText(text) {
  let end = text.trimEnd().length;
  while (text[end - 1] === "#") end -= 1;
  const isClosed = end === 0 || text[end - 1] === " ";
  return (isClosed ? text.slice(0, end) : text).trim();
}

/** Whether a paragraph ends before this line. */
function interrupts(lines, at) {
  const line = lines[at];
  return line.trim() === "" || [FENCE, HEADING, RULE, QUOTE, ITEM].some((start) => start.test(line)) || isTable(lines, at);
}

function fenced(lines, at, [, mark, language]) {
  const isEnd = (line) => {
    const text = line.trim();
    return text.length >= mark.length && text === mark[0].repeat(text.length);
  };
  let end = at + 1;
  while (end < lines.length && !isEnd(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).join("\n");
  // One that has not ended yet goes on to the end of the text.
  return [{ type: "code", language: language.trim().split(/\s/)[0], text }, Math.min(end + 1, lines.length)];
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ type: "quote", children: blocks(inside, depth + 1) }, end];
}

function list(lines, at, depth) {
  const [, indent, first] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || item[1].length > indent.length + 3 || item[1].length < indent.length || /\d/.test(item[2]) !== ordered) break;
    const inside = [lines[end].slice(item[0].length)];
    end += 1;
    while (end < lines.length && belongs(lines, end, item[1].length)) {
      inside.push(unindent(lines[end], item[0].length));
      end += 1;
    }
    items.push(blocks(inside, depth + 1));
    // Items may have a blank line between them.
    if (lines[end]?.trim() === "" && ITEM.test(lines[end + 1] ?? "")) end += 1;
  }
  if (lines[end - 1].trim() === "") end -= 1;
  return [{ type: "list", ordered, start: ordered ? Number.parseInt(first, 10) : null, items }, end];
}

/** Whether a line belongs to the item of a list that begins in column `indent`. */
function belongs(lines, at, indent) {
  const line = lines[at];
  if (line.trim() === "") {
    const next = lines[at + 1] ?? "";
    return next.trim() !== "" && next.search(/\S/) > indent;
  }
  if (line.search(/\S/) > indent) return true;
  // A paragraph may go on without indentation.
  return lines[at - 1].trim() !== "" && !interrupts(lines, at);
}

function unindent(line, columns) {
  const spaces = line.search(/\S|$/);
  return line.slice(Math.min(spaces, columns));
}

function isTable(lines, at) {
  const [head, marks] = lines.slice(at, at + 2);
  return head.includes("|") && TABLE_LINE.test((marks ?? "").trim()) && cells(head).length === cells(marks).length;
}

function cells(line) {
  const inside = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function table(lines, at, depth) {
  const align = cells(lines[at + 1]).map((cell) => {
    if (!cell.endsWith(":")) return null;
    return cell.startsWith(":") ? "center" : "right";
  });
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const width = align.length;
  const rows = [lines[at], ...lines.slice(at + 2, end)].map((line) => {
    const row = cells(line).slice(0, width);
    return Array.from({ length: width }, (_, i) => inline(row[i] ?? "", depth));
  });
  return [{ type: "table", align, rows }, end];
}

/** The inline parts of a text. */
export function inline(text, depth = 0) {
  if (depth > MAX_DEPTH) return [text];
  const found = [];
  let plain = "";
  const put = (part) => {
    if (plain !== "") found.push(plain);
    plain = "";
    found.push(part);
  };
  // What has no end after one place has none after a later one.
  const endless = new Set();
  for (let at = 0; at < text.length; ) {
    const [part, next] = inlineAt(text, at, depth, endless);
    if (typeof part === "string") plain += part;
    else put(part);
    at = next;
  }
  if (plain !== "") found.push(plain);
  return found;
}

const SPANS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];

function inlineAt(text, at, depth, endless) {
  const char = text[at];
  if (char === "\n") return [{ type: "break" }, at + 1];
  if (char === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) return [text[at + 1], at + 2];
  const found =
    (char === "`" && codeSpan(text, at, endless)) ||
    (char === "[" && link(text, at, depth, endless)) ||
    (char === "h" && address(text, at)) ||
    ("*_~".includes(char) && span(text, at, depth, endless));
  if (found) return found;
  // A run of the same character is looked at once, and plain text goes on to the next that may mean something.
  const run = /[*_~`]/.test(char) ? char : null;
  let next = at + 1;
  while (next < text.length && (run ? text[next] === run : !/[\n\\`[h*_~]/.test(text[next]))) next += 1;
  return [text.slice(at, next), next];
}

/** Where `end` comes next, from `from` on; remembers if it never does. */
function find(text, end, from, endless) {
  if (endless.has(end)) return -1;
  const at = text.indexOf(end, from);
  if (at < 0) endless.add(end);
  return at;
}

function codeSpan(text, at, endless) {
  let open = at;
  while (text[open] === "`") open += 1;
  const mark = text.slice(at, open);
  let end = find(text, mark, open, endless);
  // A longer run of backticks is not the end.
  while (end >= 0 && text[end + mark.length] === "`") {
    let after = end + mark.length;
    while (text[after] === "`") after += 1;
    end = find(text, mark, after, endless);
  }
  if (end < 0) return null;
  const inside = text.slice(open, end).replaceAll("\n", " ");
  const padded = inside.startsWith(" ") && inside.endsWith(" ") && inside.trim() !== "";
  return [{ type: "code", text: padded ? inside.slice(1, -1) : inside }, end + mark.length];
}

function span(text, at, depth, endless) {
  for (const [mark, type] of SPANS) {
    if (!text.startsWith(mark, at)) continue;
    const from = at + mark.length;
    // Underscores inside words are part of a name; a mark before a space opens nothing.
    if (mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[at - 1] ?? "")) continue;
    if (/\s|^$/.test(text[from] ?? "")) continue;
    const end = spanEnd(text, mark, from, endless);
    if (end < 0) continue;
    return [{ type, children: inline(text.slice(from, end), depth + 1) }, end + mark.length];
  }
  return null;
}

function spanEnd(text, mark, from, endless) {
  let end = find(text, mark, from + 1, endless);
  while (end >= 0) {
    const closes = !/[\s\\]/.test(text[end - 1]);
    const inWord = mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[end + mark.length] ?? "");
    // `*` does not end at the `**` of something inside it.
    const isLonger = mark.length === 1 && (text[end + 1] === mark || text[end - 1] === mark);
    if (closes && !inWord && !isLonger) return end;
    end = find(text, mark, end + (isLonger ? 2 : 1), endless);
  }
  return -1;
}

function link(text, at, depth, endless) {
  const middle = find(text, "](", at + 1, endless);
  if (middle < 0) return null;
  const end = find(text, ")", middle + 2, endless);
  if (end < 0) return null;
  const words = text.slice(at + 1, middle);
  if (words.includes("[") || words.includes("\n")) return null;
  const href = safeAddress(text.slice(middle + 2, end).trim().split(/\s/)[0]);
  return href && [{ type: "link", href, children: inline(words, depth + 1) }, end + 1];
}

function address(text, at) {
  if (at > 0 && /[\p{L}\p{N}]/u.test(text[at - 1])) return null;
  const match = /^https?:\/\/[^\s<>"'`，。；！？（）【】]{1,2000}/.exec(text.slice(at, at + 2010));
  if (!match) return null;
  const shown = match[0].replace(/[.,:;!?)\]*_~]+$/, "");
  const href = safeAddress(shown);
  return href && [{ type: "link", href, children: [shown] }, at + shown.length];
}

/** The address of a link, or null: a script or a file is no place to go to. */
export function safeAddress(text) {
  try {
    const { protocol, href } = new URL(text);
    return ["http:", "https:", "mailto:"].includes(protocol) ? href : null;
  } catch {
    return null;
  }
}
