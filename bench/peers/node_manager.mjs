// The manager that Node tutorials show: a Set of responses, each event written to every one of them.

import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const PADDING = "x".repeat(65536);
const clients = new Set();
let sequence = 0;

function stream(request, response) {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  response.flushHeaders();
  clients.add(response);
  request.on("close", () => clients.delete(response));
}

function send(data) {
  const frame = `data: ${data}\n\n`;
  for (const response of clients) response.write(frame);
}

/** The data of event number `seq`, stamped with CLOCK_MONOTONIC: `size` characters. */
function text(seq, size) {
  const head = `${seq} ${process.hrtime.bigint()} `;
  return head + PADDING.slice(0, size - head.length);
}

async function publish(query) {
  const [n, rate, size] = ["n", "rate", "bytes"].map((name) => Number(query.get(name)));
  const batch = Number(query.get("batch") ?? 1);
  const first = sequence;
  const begin = performance.now();
  for (let start = 0; start < n; start += batch) {
    for (let i = start; i < n && i < start + batch; i++) send(text(sequence++, size));
    const due = rate ? begin + ((start + batch) / rate) * 1000 : 0;
    await sleep(Math.max(0, due - performance.now()));
  }
  return { first, n };
}

function answer(response, value) {
  response.writeHead(200, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  if (url.pathname === "/events") stream(request, response);
  else if (url.pathname === "/publish") answer(response, await publish(url.searchParams));
  else if (url.pathname === "/count") answer(response, { count: clients.size });
  else answer(response, { pong: true });
});
server.listen(Number(process.argv[2]), "127.0.0.1");
