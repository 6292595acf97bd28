// @ts-check
// The page: one stream, and the parts that listen to it.

import { Answer } from "./answer.js";
import { post } from "./api.js";
import { Chat } from "./chat.js";
import { Code } from "./code.js";
import { Cost } from "./cost.js";
import { byId } from "./dom.js";
import { Log } from "./log.js";
import { Market } from "./market.js";
import { Notices } from "./notices.js";
import { People } from "./people.js";
import { HubStream } from "./stream.js";
import { Table } from "./table.js";

const ADJECTIVES = ["Amber", "Brisk", "Calm", "Dapper", "Early", "Fabled", "Gentle", "Hazel", "Keen", "Mellow"];
const ANIMALS = ["Otter", "Heron", "Lynx", "Marten", "Plover", "Badger", "Wren", "Hare", "Newt", "Stoat"];
const pick = (/** @type {string[]} */ list) => list[Math.floor(Math.random() * list.length)];
const random = crypto.getRandomValues(new Uint32Array(2));

/**
 * Who we are: a name one can change, an id for this page as long as it is open, and its stream's.
 *
 * @typedef {{ name: string, client: string, stream: string | null }} Me
 */

/** @type {Me} */
const me = {
  name: sessionStorage.getItem("name") ?? `${pick(ADJECTIVES)} ${pick(ANIMALS)}`,
  client: [...random].map((number) => number.toString(36).padStart(7, "0")).join(""),
  stream: null,
};

const stream = new HubStream(() => ({ client: me.client, name: me.name, prices: byId("prices-on").checked }));
const log = new Log(stream);
const market = new Market(stream);
const notices = new Notices(stream, me);
const complain = (/** @type {unknown} */ error) => notices.complain(error);
const chat = new Chat(stream, me, complain);
const people = new People(stream, me, complain);
new Answer();
new Cost(stream, complain);
new Table();
new Code(complain);

// --- State ---------------------------------------------------------------------------------------

/** @type {Record<string, string>} */
const STATES = {
  connecting: "Connecting…",
  open: "Live",
  waiting: "Cut, reconnecting…",
  closed: "Hung up",
};

/** @type {Record<string, string>} */
const PATHS = { reactor: "a Rust thread (handed off)", loop: "uvicorn (event loop)" };

stream.on("state", (state) => {
  byId("state").dataset.state = state;
  document.body.dataset.stream = state;
  byId("state-text").textContent = STATES[state];
  byId("fact-state").textContent = STATES[state];
  byId("fact-reconnects").textContent = Math.max(0, stream.opens - 1);
  byId("toggle").textContent = state === "closed" ? "Come back" : "Hang up";
  byId("cut").disabled = state !== "open";
  if (state === "waiting") log.add("error", stream.lastEventId, "The line is cut. The page will come back with this id.");
});
stream.onAny(() => {
  byId("fact-id").textContent = stream.lastEventId ?? "–";
});
stream.on("hello", ({ id, path, worker, broker }) => {
  me.stream = id;
  byId("fact-stream").textContent = id;
  byId("fact-path").textContent = PATHS[path];
  byId("fact-path").dataset.path = path;
  byId("fact-broker").textContent = broker ?? "none (one worker)";
  // These are about one process.
  byId("cost").hidden = byId("table").hidden = broker !== null;
  byId("fact-worker").textContent = worker;
});

// What we missed cannot be proven complete (the server restarted, or we were away too long):
// forget what we have and start again as a newcomer, who gets what the history still holds.
stream.on("stream-reset", ({ requested }) => {
  for (const part of [market, chat, notices, people]) part.clear();
  if (requested === null) return; // We are a newcomer already: go on with what comes.
  notices.toast("warning", "Starting afresh", "The history no longer reaches back to where this page was.");
  stream.open();
});

// --- Controls ------------------------------------------------------------------------------------

byId("cut").addEventListener("click", () => post("/api/cut", { id: me.stream }).catch(complain));

byId("toggle").addEventListener("click", () => {
  if (stream.state === "closed") return stream.open(stream.lastEventId);
  stream.close();
  log.add("close()", stream.lastEventId, "Hung up by this page. Come back within a while, and nothing is missing.");
});

byId("expire").addEventListener("click", () => {
  log.add("open", "expired-1", "Coming back with an id that no hub remembers.");
  stream.open("expired-1");
});

// Other topics on the same stream: come back with the same id. The prices we did not want are not missing.
byId("prices-on").addEventListener("change", () => {
  market.rejoin();
  stream.open(stream.lastEventId);
});

byId("name").value = me.name;
byId("name-form").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  byId("name").blur();
});
byId("name").addEventListener("change", () => {
  const name = byId("name").value.trim();
  byId("name").value = name || me.name;
  if (!name || name === me.name) return;
  me.name = name;
  sessionStorage.setItem("name", name);
  stream.open(stream.lastEventId);
});

stream.open();
