// @ts-check
// What a client costs: real streams to this server, measured while they are open.

import { byId } from "./dom.js";

const KINDS = /** @type {const} */ (["hub", "starlette"]);
const NAMES = { hub: "sse-hub", starlette: "sse-starlette" };
const kilobytes = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
/** @type {Record<string, (value: number) => string>} */
const SHOWN = {
  clients: (value) => value.toLocaleString("en"),
  memory: (value) => `${kilobytes.format(value / 1000)} KB`,
  cpu: (value) => `${kilobytes.format(value)} µs`,
  age: (value) => `${kilobytes.format(value)} ms`,
};

/**
 * @typedef {Record<string, number | null>} Reading
 * @typedef {{ limit: number, measuring: "hub" | "starlette" | null, problem: string | null,
 *   hub: Reading | null, starlette: Reading | null }} Costs
 */

export class Cost {
  /** @type {Costs | null} */
  #costs = null;
  #complain;

  /**
   * @param {import("./stream.js").HubStream} stream
   * @param {(error: unknown) => void} complain
   */
  constructor(stream, complain) {
    this.#complain = complain;
    stream.on("cost", (costs) => this.#show(costs));
    byId("cost-start").addEventListener("click", () => this.#toggle());
  }

  async #toggle() {
    const method = this.#costs?.measuring ? "DELETE" : "POST";
    const button = byId("cost-start");
    button.disabled = true;
    try {
      const response = await fetch("/api/cost", { method });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.detail);
    } catch (error) {
      this.#complain(error);
    }
    button.disabled = !this.#costs?.limit;
  }

  /** @param {Costs} costs */
  #show(costs) {
    this.#costs = costs;
    for (const kind of KINDS) {
      for (const [name, shown] of Object.entries(SHOWN)) {
        const value = costs[kind]?.[name] ?? null;
        byId(`cost-${kind}-${name}`).textContent = value === null ? "–" : shown(value);
      }
    }
    for (const name of ["memory", "cpu", "age"]) {
      const [ours, theirs] = KINDS.map((kind) => costs[kind]?.[name] ?? null);
      byId(`cost-times-${name}`).textContent = ours && theirs ? `${kilobytes.format(theirs / ours)}×` : "–";
    }
    const card = byId("cost");
    card.dataset.state = costs.measuring ?? (costs.starlette ? "done" : "idle");
    byId("cost-start").textContent = costs.measuring ? "Stop" : `Open ${costs.limit.toLocaleString("en")} streams`;
    if (!costs.limit) byId("cost-start").textContent = "Off on this server";
    byId("cost-start").disabled = !costs.limit;
    byId("cost-status").textContent = this.#status(costs);
  }

  /** @param {Costs} costs */
  #status(costs) {
    if (costs.problem) return costs.problem;
    if (!costs.limit) return "This server may be reached from elsewhere. SSE_HUB_CROWD=1000 allows it to open streams.";
    if (!costs.measuring) return costs.starlette ? "All streams are closed again. These were the costs." : "";
    const reading = costs[costs.measuring];
    const open = reading?.clients ?? 0;
    const name = NAMES[costs.measuring];
    return open < costs.limit ? `Opening streams of ${name}…` : `${open.toLocaleString("en")} streams of ${name} are open.`;
  }
}
