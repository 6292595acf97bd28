// @ts-check
// The chat room. A newcomer gets the room's history (`replay="all"`); what one says is a POST.

import { post } from "./api.js";
import { avatar, byId, followEnd, make, timeOf } from "./dom.js";

const KEPT = 200;

export class Chat {
  #list = byId("messages");
  #me;

  /**
   * @param {import("./stream.js").HubStream} stream
   * @param {import("./main.js").Me} me
   * @param {(error: unknown) => void} complain
   */
  constructor(stream, me, complain) {
    this.#me = me;
    stream.on("chat", (message) => this.#add(message));
    byId("chat-form").addEventListener("submit", async (/** @type {Event} */ event) => {
      event.preventDefault();
      const field = byId("chat-text");
      if (!field.value.trim()) return;
      try {
        await post("/api/chat", { author: me.name, text: field.value });
        field.value = "";
      } catch (error) {
        complain(error);
      }
    });
  }

  clear() {
    this.#list.replaceChildren();
    byId("chat-empty").hidden = false;
  }

  /** @param {{ author: string, text: string, at: string }} message */
  #add({ author, text, at }) {
    byId("chat-empty").hidden = true;
    const head = make("p", { class: "meta" }, make("b", {}, author), " ", make("time", { datetime: at }, timeOf(at)));
    const bubble = make("div", { class: "bubble" }, head, make("p", { class: "text" }, text));
    const item = make("li", author === this.#me.name ? { class: "mine" } : {}, avatar(author), bubble);
    followEnd(this.#list, () => this.#list.append(item));
    if (this.#list.children.length > KEPT) this.#list.firstChild.remove();
  }
}
