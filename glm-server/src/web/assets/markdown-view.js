// Trees of `markdown.js` to elements.

import { copyButton, element } from "./dom.js";
import { parse } from "./markdown.js";

/**
 * Shows a text in a container. Blocks that have not changed since the last time are left alone, so that what somebody selects in a
 * growing answer stays selected.
 */
export function showMarkdown(container, text) {
  const wanted = parse(text);
  wanted.forEach((block, i) => {
    const shown = container.children[i];
    if (shown?.source === block.raw) return;
    const made = view(block);
    made.source = block.raw;
    if (shown) shown.replaceWith(made);
    else container.append(made);
  });
  while (container.children.length > wanted.length) container.lastElementChild.remove();
}

function view(block) {
  switch (block.type) {
    case "heading":
      // The page has its own first headings.
      return element(`h${Math.min(block.level + 2, 6)}`, {}, ...block.children.map(inlineView));
    case "quote":
      return element("blockquote", {}, ...block.children.map(view));
    case "code":
      return codeView(block);
    case "list":
      return listView(block);
    case "table":
      return tableView(block);
    case "rule":
      return element("hr");
    default:
      return element("p", {}, ...block.children.map(inlineView));
  }
}

function codeView({ language, text }) {
  const head = element("div", { class: "code-head" }, element("span", {}, language || "text"), copyButton(() => text));
  return element("div", { class: "code" }, head, element("pre", { tabindex: "0" }, element("code", {}, text)));
}

function listView({ ordered, start, items }) {
  const isTight = (item) => item.length > 0 && item[0].type === "paragraph";
  const itemView = (item) => {
    const [first, ...rest] = item;
    // The text of an item stands beside its mark, not in a paragraph.
    if (isTight(item)) return element("li", {}, ...first.children.map(inlineView), ...rest.map(view));
    return element("li", {}, ...item.map(view));
  };
  const attributes = ordered && start !== 1 ? { start } : {};
  return element(ordered ? "ol" : "ul", attributes, ...items.map(itemView));
}

function tableView({ align, rows }) {
  const rowView = (cell) => (row) => {
    const cells = row.map((parts, i) => element(cell, { class: align[i] && `align-${align[i]}` }, ...parts.map(inlineView)));
    return element("tr", {}, ...cells);
  };
  const [head, ...body] = rows;
  const table = element("table", {}, element("thead", {}, rowView("th")(head)), element("tbody", {}, ...body.map(rowView("td"))));
  return element("div", { class: "table", tabindex: "0" }, table);
}

function inlineView(part) {
  if (typeof part === "string") return part;
  switch (part.type) {
    case "break":
      return element("br");
    case "code":
      return element("code", {}, part.text);
    case "link":
      return element("a", { href: part.href, target: "_blank", rel: "noopener noreferrer" }, ...part.children.map(inlineView));
    default:
      return element(part.type, {}, ...part.children.map(inlineView));
  }
}
