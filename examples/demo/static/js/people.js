// @ts-check
// Who is online, and a message to one of them.

import { post } from "./api.js";
import { avatar, byId, make } from "./dom.js";

/**
 * @typedef {{ id: string, client: string, since: string, name: string, recovered: boolean | null }} Person
 * @typedef {{ worker: string, at: string, good_for: number | null, count: number, people: Person[] }} Presence
 */

export class People {
  #select = byId("whisper-to");
  /** @type {Map<string, Omit<Presence, "at"> & { at: number }>} */
  #workers = new Map(); // who is online at each worker: its last list
  /** @type {string | null} */
  #chosen = null; // the client picked in the list or by a button
  #me;
  #complain;

  /**
   * @param {import("./stream.js").HubStream} stream
   * @param {import("./main.js").Me} me
   * @param {(error: unknown) => void} complain
   */
  constructor(stream, me, complain) {
    this.#me = me;
    this.#complain = complain;
    stream.on("presence", (presence) => this.#hear(presence));
    this.#select.addEventListener("change", () => {
      this.#chosen = this.#select.value;
    });
    byId("whisper-form").addEventListener("submit", (/** @type {any} */ event) => {
      event.preventDefault();
      this.#send(event.target.elements.text);
    });
  }

  clear() {
    this.#workers.clear();
  }

  /**
   * Each worker says who is at it; one that was not heard of for too long has died, and its pages are elsewhere.
   *
   * @param {Presence} presence
   */
  #hear(presence) {
    const at = Date.parse(presence.at); // the workers' time, not ours
    this.#workers.set(presence.worker, { ...presence, at });
    for (const [name, list] of this.#workers) {
      if (list.good_for !== null && list.at + list.good_for * 1000 < at) this.#workers.delete(name);
    }
    const lists = [...this.#workers.values()];
    // A line that broke without a word: its worker notices late. The page's newest stream is the one.
    const pages = new Map();
    for (const person of lists.flatMap((list) => list.people).sort((a, b) => Date.parse(a.since) - Date.parse(b.since))) {
      pages.set(person.client, person);
    }
    const unlisted = lists.reduce((sum, list) => sum + list.count - list.people.length, 0);
    this.#show(pages.size + unlisted, [...pages.values()]);
  }

  /**
   * @param {number} count
   * @param {Person[]} people
   */
  #show(count, people) {
    byId("people-count").textContent = count;
    const sorted = [...people].sort((a, b) => Number(this.#isMe(b)) - Number(this.#isMe(a)) || a.name.localeCompare(b.name));
    byId("people").replaceChildren(...sorted.map((person) => this.#row(person)));

    // Streams come and go; the page behind them stays. Keep whom the writer had chosen.
    const options = sorted.map((person) => {
      const label = this.#isMe(person) ? `${person.name} (you)` : person.name;
      return make("option", { value: person.client, "data-stream": person.id }, label);
    });
    this.#select.replaceChildren(...options.filter((_, index) => index > 0), ...options.slice(0, 1));
    if (options.some((option) => option.value === this.#chosen)) this.#select.value = this.#chosen;
  }

  /** @param {Person} person */
  #row(person) {
    const mine = this.#isMe(person);
    const tags = [];
    if (mine) tags.push(make("span", { class: "tag you" }, "you"));
    if (person.recovered === true) tags.push(make("span", { class: "tag", title: "Came back and missed nothing" }, "resumed"));
    if (person.recovered === false) tags.push(make("span", { class: "tag late", title: "Came back too late for the history" }, "reset"));
    const name = make("span", { class: "person" }, make("b", {}, person.name), make("span", { class: "ids" }, ...tags, make("code", {}, person.id)));
    const row = make("li", {}, avatar(person.name), name);
    if (!mine) row.append(this.#button("Write", person, () => this.#choose(person)));
    row.append(this.#button("Cut", person, () => post("/api/cut", { id: person.id }).catch(this.#complain)));
    return row;
  }

  /**
   * @param {string} label
   * @param {Person} person
   * @param {() => void} action
   */
  #button(label, person, action) {
    const button = make("button", { type: "button", class: "small", "aria-label": `${label}: ${person.name}` }, label);
    button.addEventListener("click", action);
    return button;
  }

  /** @param {Person} person */
  #choose(person) {
    this.#chosen = person.client;
    this.#select.value = person.client;
    byId("whisper-text").focus();
  }

  /** @param {HTMLInputElement} field */
  async #send(field) {
    const option = this.#select.selectedOptions[0];
    if (!option || !field.value.trim()) return;
    try {
      await post("/api/whispers", { to: option.dataset.stream, author: this.#me.name, text: field.value });
      field.value = "";
      byId("whisper-outcome").textContent = `Sent to ${option.textContent}, and to nobody else.`;
    } catch (error) {
      byId("whisper-outcome").textContent = "";
      this.#complain(error);
    }
  }

  /** @param {Person} person */
  #isMe = (person) => person.client === this.#me.client;
}
