// An answer that arrives token by token. The connection exists only while it runs.

import { byId } from "./dom.js";

export class Answer {
  #source = null;

  constructor() {
    byId("answer-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const question = byId("question").value.trim();
      if (this.#source) this.#finish("stopped");
      else if (question) this.#ask(question);
    });
    byId("chips").addEventListener("click", (event) => {
      if (!event.target.matches("button")) return;
      byId("question").value = event.target.textContent;
      this.#ask(event.target.textContent);
    });
  }

  #ask(question) {
    this.#source?.close();
    byId("answer-empty").hidden = true;
    byId("asked").hidden = false;
    byId("asked").textContent = question;
    byId("words").textContent = "";
    this.#show("writing", "Answering…");
    const source = new EventSource(`/api/answer?${new URLSearchParams({ question })}`);
    this.#source = source;
    source.addEventListener("token", (event) => {
      byId("words").append(JSON.parse(event.data));
      byId("fact-answer-id").textContent = event.lastEventId;
      byId("reply").scrollTop = byId("reply").scrollHeight;
    });
    // The end must be told: when a response just ends, EventSource takes it for a cut and reconnects.
    source.addEventListener("done", () => this.#finish("done"));
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) this.#finish("failed");
    };
  }

  #finish(how) {
    this.#source?.close();
    this.#source = null;
    this.#show(how, { done: "The answer is complete.", stopped: "Stopped.", failed: "The server refused." }[how]);
  }

  #show(state, status) {
    byId("words").dataset.state = state;
    byId("answer-status").textContent = status;
    byId("ask").textContent = state === "writing" ? "Stop" : "Ask";
    byId("question").required = state !== "writing";
  }
}
