// A page with the useChat of docs/runs.md, in React without a browser: `use_chat.mjs URL HOOK HALF WHOLE`. HOOK is the
// page's line. It asks, is loaded anew when it shows HALF of the answer, and ends when it shows the WHOLE. Prints its
// requests, and what it shows, as lines of JSON.
import { useChat } from "@ai-sdk/react";
import { createElement } from "react";
import { create } from "react-test-renderer";

const [url, hook, half, whole] = process.argv.slice(2);
setTimeout(() => process.exit(1), 60_000).unref();
const print = (what) => console.log(JSON.stringify(what));
const request = fetch;
let answered = () => {};
globalThis.fetch = async (path, init) => {
  const response = await request(new URL(path, url), init);
  print({ asked: `${init.method ?? "GET"} ${path}`, status: response.status });
  answered();
  return response;
};

const useIt = new Function("useChat", "chatId", "stored", `${hook}\nreturn { messages, sendMessage };`);
const textOf = (message) => message?.parts.map(({ text }) => text ?? "").join("");

function load(stored) {
  const page = { shows: (text) => new Promise((resolve) => (page.wait = { text, resolve })) };
  function Page() {
    Object.assign(page, useIt(useChat, "7", stored));
    if (page.wait?.text === (textOf(page.messages[1]) ?? "")) page.wait.resolve();
    return null;
  }
  page.root = create(createElement(Page));
  return page;
}

const asksToResume = new Promise((resolve) => (answered = resolve));
const first = load([]);
await asksToResume;
const begun = first.shows(half);
first.sendMessage({ text: "hi" });
await begun;
print({ shows: half });
first.root.unmount();

const second = load(first.messages.slice(0, 1));
await second.shows(half);
print({ shows: half });
await second.shows(whole);
print({ shows: whole, roles: second.messages.map(({ role }) => role) });
process.exit(0);
