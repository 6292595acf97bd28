// @ts-check
// Notices to everybody, pushed by a form, and messages to this page alone; both also as a toast.

import { post } from "./api.js";
import { byId, make, timeOf } from "./dom.js";

const KEPT = 30;
const TOAST_MS = 6000;

export class Notices {
  #feed = byId("feed");

  /**
   * @param {import("./stream.js").HubStream} stream
   * @param {import("./main.js").Me} me
   */
  constructor(stream, me) {
    stream.on("notice", (notice, { replayed }) => {
      this.#add(notice.level, `${notice.author} to everybody`, notice);
      if (!replayed) this.toast(notice.level, notice.author, notice.text);
    });
    stream.on("whisper", (whisper) => {
      this.#add("whisper", `${whisper.author}, only to you`, whisper);
      this.toast("whisper", `${whisper.author}, only to you`, whisper.text);
    });
    byId("notice-form").addEventListener("submit", async (/** @type {any} */ event) => {
      event.preventDefault();
      const form = event.target;
      if (!form.elements.text.value.trim()) return;
      const { text, level } = Object.fromEntries(new FormData(form));
      try {
        await post("/api/notices", { author: me.name, text, level });
        form.elements.text.value = "";
      } catch (error) {
        this.complain(error);
      }
    });
  }

  clear() {
    this.#feed.replaceChildren();
    byId("feed-empty").hidden = false;
  }

  /**
   * Show an error.
   *
   * @param {unknown} error
   */
  complain(error) {
    this.toast("warning", "That did not work", error instanceof Error ? error.message : String(error));
  }

  /**
   * Show something for a few seconds.
   *
   * @param {string} level
   * @param {string} title
   * @param {string} text
   */
  toast(level, title, text) {
    const toast = make("div", { class: "toast", "data-level": level }, make("b", {}, title), make("p", {}, text));
    byId("toasts").append(toast);
    setTimeout(() => toast.remove(), TOAST_MS);
    while (byId("toasts").children.length > 3) byId("toasts").firstChild.remove();
  }

  /**
   * @param {string} level
   * @param {string} title
   * @param {{ text: string, at: string }} notice
   */
  #add(level, title, { text, at }) {
    byId("feed-empty").hidden = true;
    const meta = make("p", { class: "meta" }, make("b", {}, title), " ", make("time", { datetime: at }, timeOf(at)));
    this.#feed.prepend(make("li", { "data-level": level }, meta, make("p", { class: "text" }, text)));
    if (this.#feed.children.length > KEPT) this.#feed.lastChild.remove();
  }
}
