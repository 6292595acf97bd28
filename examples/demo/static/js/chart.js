// @ts-check
// A moving line chart in SVG: `draw(points)` after each new point, and it slides until the next.

import { makeSvg } from "./dom.js";

const LABELS = 64; // pixels on the right for prices: enough for "888.88" in a wide font
const PADDING = 12;
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** @typedef {{ value: number, marked: boolean }} Point */

export class Chart {
  /** @type {SVGSVGElement} */
  #svg;
  /** @type {number} */
  #visible; // how many points fit
  /** @type {Point[]} */
  #points = [];
  #grid = makeSvg("g", { class: "gridlines" });
  #moving = makeSvg("g", { class: "moving" });
  #area = makeSvg("path", { class: "area" });
  #line = makeSvg("path", { class: "stroke" });
  #marked = makeSvg("path", { class: "stroke marked" });
  #dot = makeSvg("circle", { class: "now", r: 4 });
  #price = makeSvg("text");
  #tag = makeSvg("g", { class: "tag" }, makeSvg("rect", { rx: 5, height: 20, width: LABELS - 6 }), this.#price);
  #window = makeSvg("svg", { class: "window" }, this.#moving);

  /**
   * @param {SVGSVGElement} svg
   * @param {number} visible
   */
  constructor(svg, visible) {
    this.#svg = svg;
    this.#visible = visible;
    this.#moving.append(this.#area, this.#line, this.#marked, this.#dot);
    svg.append(this.#grid, this.#window, this.#tag);
    new ResizeObserver(() => this.draw(this.#points)).observe(svg);
  }

  /**
   * Draw `points`, oldest first; slide for `milliseconds` to where they belong.
   *
   * @param {Point[]} points
   */
  draw(points, milliseconds = 0) {
    this.#points = points;
    const { width, height } = this.#svg.getBoundingClientRect();
    this.#svg.classList.toggle("blank", points.length < 2);
    if (!width || points.length < 2) return;
    const shown = points.slice(-this.#visible);
    const step = (width - LABELS) / (this.#visible - 1);
    const [low, high, unit] = niceRange(shown.map((point) => point.value));
    const x = (/** @type {number} */ index) => width - LABELS - (shown.length - 1 - index) * step;
    const y = (/** @type {number} */ value) => PADDING + ((high - value) / (high - low)) * (height - 2 * PADDING);

    const last = shown[shown.length - 1].value;
    this.#drawGrid(low, high, unit, y, width, last);
    const corners = shown.map((point, index) => `${x(index).toFixed(1)} ${y(point.value).toFixed(1)}`);
    this.#line.setAttribute("d", `M${corners.join("L")}`);
    this.#area.setAttribute("d", `M${corners.join("L")}L${x(shown.length - 1)} ${height}L${x(0)} ${height}Z`);
    this.#marked.setAttribute("d", markedPath(shown, corners));
    this.#dot.setAttribute("cx", String(x(shown.length - 1)));
    this.#dot.setAttribute("cy", String(y(last)));
    this.#window.setAttribute("width", String(width - LABELS + 6));
    this.#tag.setAttribute("transform", `translate(${width - LABELS + 6} ${y(last) - 10})`);
    this.#price.textContent = last.toFixed(2);
    this.#slide(step, milliseconds);
  }

  /**
   * @param {number} low
   * @param {number} high
   * @param {number} unit
   * @param {(value: number) => number} y
   * @param {number} width
   * @param {number} last
   */
  #drawGrid(low, high, unit, y, width, last) {
    /** @type {SVGElement[]} */
    const lines = [];
    for (let value = low; value <= high + unit / 2; value += unit) {
      lines.push(makeSvg("line", { x1: 0, x2: width - LABELS, y1: y(value), y2: y(value) }));
      if (Math.abs(y(value) - y(last)) < 18) continue; // the tag is there
      lines.push(makeSvg("text", { x: width - LABELS + 12, y: y(value) + 4 }, value.toFixed(2)));
    }
    this.#grid.replaceChildren(...lines);
  }

  /**
   * @param {number} step
   * @param {number} milliseconds
   */
  #slide(step, milliseconds) {
    for (const animation of this.#moving.getAnimations()) animation.cancel();
    if (!milliseconds || still.matches) return;
    this.#moving.animate([{ transform: `translateX(${step}px)` }, { transform: "none" }], milliseconds);
  }
}

/**
 * A range of whole units around the values, and the unit: lines that stay put while prices move.
 *
 * @param {number[]} values
 */
function niceRange(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const rough = Math.max(high - low, high * 0.004) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough) ?? 10 * power;
  return [Math.floor(low / unit) * unit, Math.ceil(high / unit) * unit, unit];
}

/**
 * The parts of the line that lead to marked points.
 *
 * @param {Point[]} points
 * @param {string[]} corners
 */
function markedPath(points, corners) {
  let path = "";
  for (let index = 1; index < points.length; index += 1) {
    if (points[index].marked) path += `M${corners[index - 1]}L${corners[index]}`;
  }
  return path;
}

/**
 * A line without axes, for a tile.
 *
 * @param {SVGPathElement} path
 * @param {number[]} values
 */
export function sparkline(path, values) {
  if (values.length < 2) return;
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const corners = values.map(
    (value, index) => `${((index / (values.length - 1)) * 100).toFixed(1)} ${(28 - ((value - low) / span) * 26).toFixed(1)}`,
  );
  path.setAttribute("d", `M${corners.join("L")}`);
}
