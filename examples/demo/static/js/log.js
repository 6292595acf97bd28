// @ts-check
// The control events of the stream, which a page may listen to or ignore.

import { byId, make, timeOf } from "./dom.js";

const KEPT = 60;
/** @type {Record<string, (data: any) => string>} */
const MEANINGS = {
  "stream-open": () => "Connected. The id is where this stream stands, even before its first event.",
  "stream-cursor": () => "Quiet here, but the hub moved on: with this id we stay within its history.",
  "stream-reset": ({ reason, requested }) => `What came after ${requested ?? "our first id"} cannot be proven complete (${reason}).`,
  "stream-lagged": ({ dropped }) => `We were too slow: ${dropped} dropped.`,
  hello: ({ recovered }) =>
    recovered === null ? "New here: history shown." : recovered ? "Caught up: nothing was lost." : "Back, but too late for the history.",
};

export class Log {
  /** @param {import("./stream.js").HubStream} stream */
  constructor(stream) {
    stream.onAny(({ name, data, id }) => {
      if (name in MEANINGS) this.add(name, id, MEANINGS[name](data ?? {}));
    });
    stream.on("presence", ({ change }, { replayed }) => {
      if (change && !replayed) this.add("presence", stream.lastEventId, `${change.name} ${change.what}${change.why ? ` (${change.why})` : ""}.`);
    });
    byId("log-clear").addEventListener("click", () => byId("log").replaceChildren());
  }

  /**
   * Add a line on top.
   *
   * @param {string} name
   * @param {string | null} id
   * @param {string} meaning
   */
  add(name, id, meaning) {
    const body = byId("log");
    body.prepend(
      make(
        "tr",
        { "data-event": name },
        make("td", {}, timeOf(new Date())),
        make("td", {}, make("code", { class: "event" }, name)),
        make("td", {}, make("code", {}, id ?? "–")),
        make("td", {}, meaning),
      ),
    );
    if (body.children.length > KEPT) body.lastChild.remove();
  }
}
