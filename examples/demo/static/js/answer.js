// An answer that arrives token by token. The server runs it, whoever watches: a reload goes on, and a second tab shows
// the same. The browser's tabs share which answer that is.

import { post } from "./api.js";
import { byId } from "./dom.js";

const KEY = "sse-hub-answer";
const STATUS = {
  done: "The answer is complete.",
  stopped: "Stopped.",
  failed: "The answer failed.",
  lost: "The answer is lost: the server was restarted, or it was long ago. Ask again.",
};

export class Answer {
  #source = null;
  #answer = null;

  constructor() {
    byId("answer-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const question = byId("question").value.trim();
      if (this.#source) this.#stop();
      else if (question) this.#ask(question);
    });
    byId("chips").addEventListener("click", (event) => {
      if (!event.target.matches("button")) return;
      byId("question").value = event.target.textContent;
      this.#ask(event.target.textContent);
    });
    // Another tab has asked.
    addEventListener("storage", (event) => {
      if (event.key === KEY && event.newValue) this.#watch(JSON.parse(event.newValue));
    });
    const known = localStorage.getItem(KEY);
    if (known) this.#watch(JSON.parse(known));
  }

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
    fetch(`/api/answers/${this.#answer.id}`, { method: "DELETE" });
  }

  #watch(answer) {
    this.#source?.close();
    this.#answer = answer;
    let tokens = 0;
    byId("answer-empty").hidden = true;
    byId("asked").hidden = false;
    byId("asked").textContent = answer.question;
    byId("words").textContent = "";
    this.#show("writing");
    const source = new EventSource(`/api/answers/${answer.id}`);
    this.#source = source;
    source.addEventListener("token", (event) => {
      byId("words").append(JSON.parse(event.data));
      byId("fact-answer-tokens").textContent = tokens += 1;
      byId("reply").scrollTop = byId("reply").scrollHeight;
    });
    source.addEventListener("stream-end", (event) => this.#finish(JSON.parse(event.data).state));
    // 204: the server has no such answer, because it was started again.
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.#finish("lost");
    };
  }

  #finish(state) {
    this.#source?.close();
    this.#source = null;
    this.#show(state);
  }

  #show(state) {
    byId("words").dataset.state = state;
    byId("answer-status").textContent = STATUS[state] ?? "Answering…";
    byId("ask").textContent = { writing: "Stop", lost: "Ask again" }[state] ?? "Ask";
    byId("question").required = state !== "writing";
    if (state === "lost") byId("question").value = this.#answer.question;
  }
}
