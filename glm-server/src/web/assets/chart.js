// Lines over the last minutes, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 74;
/** Points that are shown: two minutes of seconds. */
const LENGTH = 120;

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** One or several lines with a common scale from 0 up. A value may be null: nothing was measured. */
export class Chart {
  #lines;
  #paths;
  #area;
  element;

  /** `label` is what the picture shows, in words. */
  constructor(label, count = 1) {
    this.element = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
    this.#lines = Array.from({ length: count }, () => []);
    this.#area = svg("path", { class: "area line-0" });
    this.#paths = this.#lines.map((_, i) => svg("path", { class: `line-${i}` }));
    this.element.append(...(count === 1 ? [this.#area] : []), ...this.#paths);
  }

  push(values) {
    this.#lines.forEach((line, i) => {
      line.push(values[i] ?? null);
      if (line.length > LENGTH) line.shift();
    });
    const top = Math.max(...this.#lines.flat(), Number.MIN_VALUE) * 1.08;
    this.#paths.forEach((path, i) => path.setAttribute("d", pathOf(this.#lines[i], top)));
    const line = this.#lines[0];
    const first = x(0, line.length);
    this.#area.setAttribute("d", line.includes(null) ? "" : `${pathOf(line, top)} L${WIDTH} ${HEIGHT} L${first} ${HEIGHT} Z`);
  }
}

/** The latest point stands at the right. */
function x(i, length) {
  return (WIDTH * (LENGTH - length + i)) / (LENGTH - 1);
}

/** The path of a line; gaps where nothing was measured. */
export function pathOf(line, top) {
  let path = "";
  line.forEach((value, i) => {
    if (value === null) return;
    const isFirst = i === 0 || line[i - 1] === null;
    const y = HEIGHT - 1 - (value / top) * (HEIGHT - 2);
    path += `${isFirst ? "M" : "L"}${x(i, line.length).toFixed(1)} ${y.toFixed(1)}`;
  });
  return path;
}
