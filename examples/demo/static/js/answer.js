// @ts-check
// An answer that arrives token by token. The server runs it, whoever watches: a reload goes on, and a second tab shows
// the same. The browser's tabs share which answer that is.

import { connect } from "/sse-hub.js";

import { post } from "./api.js";
import { byId } from "./dom.js";

const KEY = "sse-hub-answer";
/** @type {Record<string, string>} */
const STATUS = {
  done: "The answer is complete.",
  stopped: "Stopped, by a reader or because the server was restarted. Ask again.",
  failed: "The answer failed. Ask again.",
  lost: "The answer is lost: the server was restarted, or it was long ago. Ask again.",
};

/** @typedef {{ id: string, question: string }} Asked */

export class Answer {
  /** @type {import("/sse-hub.js").Connection | null} */
  #stream = null;
  /** @type {Asked | null} */
  #answer = null;

  constructor() {
    byId("answer-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      const question = byId("question").value.trim();
      if (this.#stream) this.#stop();
      else if (question) this.#ask(question);
    });
    byId("chips").addEventListener("click", (/** @type {Event} */ { target }) => {
      if (!(target instanceof HTMLButtonElement)) return;
      byId("question").value = target.textContent;
      this.#ask(target.textContent);
    });
    // Another tab has asked.
    addEventListener("storage", (event) => {
      if (event.key === KEY && event.newValue) this.#watch(JSON.parse(event.newValue));
    });
    const known = localStorage.getItem(KEY);
    if (known) this.#watch(JSON.parse(known));
  }

  /** @param {string} question */
  async #ask(question) {
    const bytes = crypto.getRandomValues(new Uint8Array(8));
    const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    try {
      await post(`/api/answers/${id}`, { question });
    } catch {
      return this.#show("failed");
    }
    localStorage.setItem(KEY, JSON.stringify({ id, question }));
    this.#watch({ id, question });
  }

  #stop() {
    fetch(`/api/answers/${this.#answer?.id}`, { method: "DELETE" }).catch(() => {}); // The button stays.
  }

  /** @param {Asked} answer */
  #watch(answer) {
    this.#stream?.close();
    this.#answer = answer;
    let tokens = 0;
    const clear = () => {
      tokens = 0;
      byId("words").textContent = "";
    };
    byId("answer-empty").hidden = true;
    byId("asked").hidden = false;
    byId("asked").textContent = answer.question;
    clear();
    this.#show("writing");
    const stream = connect(`/api/answers/${answer.id}`);
    this.#stream = stream;
    stream.on("stream-reset", clear); // It begins again.
    stream.on("token", (event) => {
      byId("words").append(JSON.parse(event.data));
      byId("fact-answer-tokens").textContent = String((tokens += 1));
      byId("reply").scrollTop = byId("reply").scrollHeight;
    });
    // It comes back by itself until the run's end, or until the server has no such answer, because it was started again.
    stream.closed.then((result) => {
      if (stream !== this.#stream) return; // This page has asked again.
      this.#stream = null;
      const end = result.reason === "ended" && result.event;
      this.#show(end ? JSON.parse(end.data).state : "lost");
    });
  }

  /** @param {string} state */
  #show(state) {
    byId("words").dataset.state = state;
    byId("answer-status").textContent = STATUS[state] ?? "Answering…";
    byId("ask").textContent = { writing: "Stop", done: "Ask" }[state] ?? "Ask again";
    byId("question").required = state !== "writing";
    if (state !== "writing" && state !== "done") byId("question").value ||= this.#answer?.question ?? "";
  }
}
