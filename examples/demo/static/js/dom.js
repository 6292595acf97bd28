// @ts-check
// Small helpers. Text always goes in as text, never as HTML: people write what is shown here.

/**
 * The element with this id, which the page has. Its kind is the caller's to know.
 *
 * @param {string} id
 * @returns {any}
 */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element: `make("li", { class: "mine" }, "text", otherElement)`.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number>} attributes
 * @param {(Node | string)[]} children
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/**
 * The same for SVG.
 *
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number>} attributes
 * @param {(Node | string)[]} children
 */
export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/**
 * A time of day, from a Date or an ISO string.
 *
 * @param {Date | string} when
 */
export const timeOf = (when) => clock.format(typeof when === "string" ? new Date(when) : when);

/**
 * A round badge with a name's initials, in a colour that belongs to the name.
 *
 * @param {string} name
 */
export function avatar(name) {
  let hue = 0;
  for (const letter of name) hue = (hue * 31 + (letter.codePointAt(0) ?? 0)) % 360;
  const initials = name.split(/\s+/).slice(0, 2).map((word) => [...word][0] ?? "").join("").toUpperCase();
  const badge = make("span", { class: "avatar", "aria-hidden": "true" }, initials);
  badge.style.setProperty("--hue", String(hue));
  return badge;
}

/**
 * Scroll a list to its end, unless the reader has scrolled up to read something.
 *
 * @param {HTMLElement} list
 * @param {() => void} change
 */
export function followEnd(list, change) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  change();
  if (atEnd) list.scrollTop = list.scrollHeight;
}
