// @ts-check
// A button on each card that shows the lines behind it.

import { make } from "./dom.js";

export class Code {
  /** @param {(error: unknown) => void} complain */
  constructor(complain) {
    for (const card of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-code]"))) this.#equip(card, complain);
  }

  /**
   * @param {HTMLElement} card
   * @param {(error: unknown) => void} complain
   */
  #equip(card, complain) {
    const name = String(card.dataset.code);
    const source = make("pre", { class: "source", id: `code-${name}`, tabindex: "0", "aria-label": "Source code" });
    source.hidden = true;
    const title = card.querySelector("h2")?.firstChild?.textContent?.trim();
    const button = make("button", { type: "button", class: "small toggle", "aria-expanded": "false", "aria-controls": source.id, "aria-label": `Code of ${title}` }, "Code");
    button.addEventListener("click", async () => {
      if (!source.textContent) {
        try {
          source.textContent = await this.#fetch(name);
        } catch (error) {
          return complain(error);
        }
      }
      source.hidden = !source.hidden;
      button.setAttribute("aria-expanded", String(!source.hidden));
    });
    card.querySelector("header")?.append(button);
    card.querySelector("header")?.after(source);
  }

  /** @param {string} name */
  async #fetch(name) {
    const response = await fetch(`/api/code/${name}`);
    if (!response.ok) throw new Error(`The server said ${response.status}.`);
    return response.text();
  }
}
