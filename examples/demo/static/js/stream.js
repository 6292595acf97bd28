// @ts-check
// One stream for everything the page hears from the hub.
//
// The client that the hub serves reconnects by itself and sends Last-Event-ID; there is nothing to program for that.
// What this class adds: it knows the state, keeps the last id, and can hang up and come back.

import { connect } from "/sse-hub.js";

/**
 * What a listener is told besides the data: the last id, and whether the event is live (null), from the history that a
 * newcomer is shown, or what a cut had kept from us.
 *
 * @typedef {{ data: any, id: string | null, replayed: "history" | "caught up" | null }} Detail
 */

const CONTROL = ["stream-open", "stream-reset", "stream-cursor", "stream-lagged"];
const OURS = ["hello", "tick", "notice", "chat", "whisper", "presence", "cost"];
// The client gives up at an answer that says so (404, say). We try again.
const RETRY_AFTER_REFUSAL = 5000;

export class HubStream extends EventTarget {
  state = "connecting"; // connecting | open | waiting (the client will reconnect) | closed
  /** @type {string | null} */
  lastEventId = null;
  opens = 0;
  /** @type {import("/sse-hub.js").Connection | null} */
  #source = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer = undefined;
  /** @type {Detail["replayed"]} */
  #replay = null; // "history" for a newcomer, "caught up" after a cut, null when live
  #parameters;

  /** @param {() => Record<string, string>} parameters returns the query parameters for the next connection */
  constructor(parameters) {
    super();
    this.#parameters = parameters;
  }

  /**
   * Connect. With `from`, ask for what came after that id; without, as a newcomer.
   *
   * @param {string | null} from
   */
  open(from = null) {
    this.close();
    const query = new URLSearchParams(this.#parameters());
    this.lastEventId = from;
    const source = connect(`/events?${query}`, { lastEventId: from ?? "" });
    this.#source = source;
    this.#become("connecting");
    source.on("open", () => {
      this.opens += 1;
      this.#become("open");
    });
    source.on("error", () => this.#become("waiting"));
    source.closed.then(() => {
      if (source !== this.#source) return; // We hung up.
      this.#become("closed");
      this.#timer = setTimeout(() => this.open(this.lastEventId), RETRY_AFTER_REFUSAL);
    });
    for (const name of [...CONTROL, ...OURS]) source.on(name, (event) => this.#hear(name, event));
  }

  /** Hang up. The client does not come back by itself after this. */
  close() {
    clearTimeout(this.#timer);
    const source = this.#source;
    this.#source = null;
    source?.close();
    this.#become("closed");
  }

  /**
   * Call `listener(data, { id, replayed })` for each event of that name. `replayed` is null for what
   * arrives live, "history" for what a newcomer is shown, "caught up" for what a cut had kept from us.
   *
   * @param {string} name
   * @param {(data: any, detail: Detail) => void} listener
   */
  on(name, listener) {
    this.addEventListener(name, (event) => {
      if (event instanceof CustomEvent) listener(event.detail.data, event.detail);
    });
  }

  /**
   * Call `listener` for every event that the server sends.
   *
   * @param {(event: Detail & { name: string }) => void} listener
   */
  onAny(listener) {
    this.addEventListener("any", (event) => {
      if (event instanceof CustomEvent) listener(event.detail);
    });
  }

  /**
   * @param {string} name
   * @param {import("/sse-hub.js").StreamEvent} event
   */
  #hear(name, event) {
    // What is replayed stands between `stream-open` and `hello`, which the server sends live.
    if (name === "stream-open") this.#replay = this.lastEventId === null ? "history" : "caught up";
    if (name === "hello") this.#replay = null;
    // An event without an id (one sent to this stream alone) leaves the last id as it was.
    this.lastEventId = event.lastEventId || this.lastEventId;
    const data = event.data ? JSON.parse(event.data) : null;
    const detail = { data, id: this.lastEventId, replayed: this.#replay };
    this.dispatchEvent(new CustomEvent("any", { detail: { ...detail, name } }));
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** @param {string} state */
  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { data: state } }));
  }
}
