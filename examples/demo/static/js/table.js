// @ts-check
// A table by key, on a stream of its own, at the rate that one chooses.

import { byId, make } from "./dom.js";

const SHOWN = 1000; // milliseconds between two readings
const LEAST = "id: 0123456789abcdef-00000\ndata: \n\n".length; // what an event has besides its data, about

export class Table {
  /** @type {EventSource | null} */
  #source = null;
  /** @type {Map<string, { price: HTMLElement, change: HTMLElement }>} */
  #rows = new Map();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer = undefined;
  /** @type {{ before: number, after: number } | null} */
  #sizes = null;
  #read = { values: 0, bytes: 0, oldest: 0 };

  constructor() {
    byId("table-on").addEventListener("change", () => this.#open());
    byId("table-zip").addEventListener("change", () => this.#open());
    for (const radio of document.querySelectorAll("input[name=rate]")) {
      radio.addEventListener("change", () => this.#open());
    }
  }

  #open() {
    this.#source?.close();
    clearInterval(this.#timer);
    this.#source = null;
    const card = byId("table");
    card.dataset.state = "off";
    if (!byId("table-on").checked) return;
    const asked = new URLSearchParams();
    const chosen = document.querySelector("input[name=rate]:checked");
    if (chosen instanceof HTMLInputElement && chosen.value) asked.set("rate", chosen.value);
    if (byId("table-zip").checked) asked.set("compress", "true");
    this.#source = new EventSource(`/api/table?${asked}`);
    this.#source.onmessage = ({ data }) => this.#hear(data);
    this.#source.onopen = () => (card.dataset.state = "open");
    this.#source.onerror = () => (card.dataset.state = "waiting");
    this.#begin();
    this.#timer = setInterval(() => this.#show(), SHOWN);
  }

  #begin() {
    this.#read = { values: 0, bytes: 0, oldest: 0 };
  }

  /** @param {string} data */
  #hear(data) {
    const row = JSON.parse(data);
    this.#read.values += 1;
    this.#read.bytes += data.length + LEAST;
    this.#read.oldest = Math.max(this.#read.oldest, Date.now() - Date.parse(row.at));
    const cells = this.#rows.get(row.symbol) ?? this.#makeRow(row.symbol);
    cells.price.textContent = row.price.toFixed(2);
    cells.change.textContent = `${(row.change * 100).toFixed(2)} %`;
  }

  async #show() {
    const { values, bytes, oldest } = this.#read;
    byId("table-values").textContent = values;
    byId("table-age").textContent = values ? `${oldest} ms` : "–";
    this.#begin();
    const share = byId("table-zip").checked ? await this.#share() : 1;
    byId("table-bytes").textContent = share === null ? "–" : Math.round(bytes * share).toLocaleString("en");
  }

  /**
   * What compression left since the last reading. A page does not see the bytes of its own stream.
   * @returns {Promise<number | null>}
   */
  async #share() {
    const was = this.#sizes;
    try {
      this.#sizes = await (await fetch("/api/table/bytes")).json();
    } catch {
      this.#sizes = null;
    }
    const is = this.#sizes;
    if (!was || !is || is.before === was.before) return null;
    return (is.after - was.after) / (is.before - was.before);
  }

  /** @param {string} symbol */
  #makeRow(symbol) {
    const cells = { price: make("td"), change: make("td") };
    byId("table-rows").append(make("tr", { "data-symbol": symbol }, make("th", { scope: "row" }, symbol), cells.price, cells.change));
    this.#rows.set(symbol, cells);
    return cells;
  }
}
