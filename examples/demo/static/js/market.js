// @ts-check
// The price ticker: a tile for each share, a chart for the chosen one, and the proof that none is missing.

import { Chart, sparkline } from "./chart.js";
import { byId, make, makeSvg } from "./dom.js";

const KEPT = 240; // ticks
const VISIBLE = 120;

/**
 * @typedef {{ symbol: string, name: string, price: number, change: number }} Quote
 * @typedef {{ number: number, at: string, quotes: Quote[] }} Tick
 * @typedef {{ quotes: Map<string, Quote>, at: number, caughtUp: boolean }} Kept
 * @typedef {{ price: HTMLElement, change: HTMLElement, spark: SVGPathElement, label: HTMLElement }} Tile
 */

export class Market {
  /** @type {Kept[]} */
  #ticks = [];
  /** @type {Map<string, Tile>} */
  #tiles = new Map();
  #chosen = "";
  #chart = new Chart(byId("chart"), VISIBLE);
  /** @type {number | null} */
  #lastNumber = null;
  #counts = { received: 0, caught: 0, missing: 0, twice: 0 };
  #drawing = false;

  /** @param {import("./stream.js").HubStream} stream */
  constructor(stream) {
    stream.on("tick", (tick, { replayed }) => this.#add(tick, replayed));
  }

  /** Begin anew: what comes next need not join what was. */
  clear() {
    this.#ticks = [];
    this.#counts = { received: 0, caught: 0, missing: 0, twice: 0 };
    this.rejoin();
    this.#later();
  }

  /** Expect a gap: we chose not to listen for a while. */
  rejoin() {
    this.#lastNumber = null;
  }

  /**
   * @param {Tick} tick
   * @param {import("./stream.js").Detail["replayed"]} replayed
   */
  #add(tick, replayed) {
    const expected = this.#lastNumber === null ? tick.number : this.#lastNumber + 1;
    if (tick.number < expected) {
      this.#counts.twice += 1;
      return;
    }
    this.#counts.missing += tick.number - expected;
    this.#counts.received += 1;
    const caughtUp = replayed === "caught up";
    this.#counts.caught += caughtUp ? 1 : 0;
    this.#lastNumber = tick.number;
    const quotes = new Map(tick.quotes.map((quote) => [quote.symbol, quote]));
    this.#ticks.push({ quotes, at: Date.parse(tick.at), caughtUp });
    if (this.#ticks.length > KEPT) this.#ticks.shift();
    this.#later();
  }

  // A replay brings many ticks at once: draw once a frame.
  #later() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#draw();
    });
  }

  #draw() {
    for (const [name, count] of Object.entries(this.#counts)) byId(`ticks-${name}`).textContent = count;
    const proof = byId("proof");
    proof.dataset.whole = this.#counts.missing + this.#counts.twice === 0;
    const latest = this.#ticks.at(-1);
    if (!latest) return this.#chart.draw([]);
    for (const quote of latest.quotes.values()) this.#drawTile(quote);
    this.#drawChart(latest);
  }

  /** @param {Kept} latest */
  #drawChart(latest) {
    const points = this.#ticks.map(({ quotes, caughtUp }) => ({ value: quotes.get(this.#chosen)?.price ?? NaN, marked: caughtUp }));
    const before = this.#ticks.at(-2);
    const pace = before ? Math.min(latest.at - before.at, 1500) : 0;
    this.#chart.draw(points, latest.caughtUp ? 0 : pace);
    const quote = latest.quotes.get(this.#chosen);
    if (!quote) return;
    const first = this.#ticks.at(-VISIBLE) ?? this.#ticks[0];
    const seconds = Math.round((latest.at - first.at) / 1000);
    byId("chart-span").textContent = `${quote.name}, the last ${seconds} s`;
    byId("chart").setAttribute("aria-label", `${quote.name}, ${quote.price.toFixed(2)}, over the last ${seconds} seconds`);
  }

  /** @param {Quote} quote */
  #drawTile(quote) {
    const tile = this.#tiles.get(quote.symbol) ?? this.#makeTile(quote);
    const up = quote.change >= 0;
    tile.price.textContent = quote.price.toFixed(2);
    tile.change.textContent = `${up ? "▲" : "▼"} ${Math.abs(quote.change * 100).toFixed(2)} %`;
    tile.label.dataset.direction = up ? "up" : "down";
    sparkline(tile.spark, this.#ticks.slice(-60).map(({ quotes }) => quotes.get(quote.symbol)?.price ?? NaN));
  }

  /** @param {Quote} quote */
  #makeTile(quote) {
    this.#chosen ||= quote.symbol;
    const radio = make("input", { type: "radio", name: "share", value: quote.symbol });
    radio.checked = quote.symbol === this.#chosen;
    radio.addEventListener("change", () => {
      this.#chosen = quote.symbol;
      this.#draw();
    });
    const [price, change] = ["price", "change"].map((name) => make("span", { class: name }));
    const spark = makeSvg("path");
    const line = makeSvg("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" }, spark);
    const title = make("span", { class: "symbol" }, quote.symbol, make("small", {}, quote.name));
    const tile = { price, change, spark, label: make("label", { class: "tile" }, radio, title, line, price, change) };
    this.#tiles.set(quote.symbol, tile);
    byId("tiles").append(tile.label);
    return tile;
  }
}
