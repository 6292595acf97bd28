// The module that hubs serve, against a server that says exactly what each test wants.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { afterEach, test } from "node:test";

const MODULE = new URL("../../python/sse_hub/_client/sse-hub.min.js", import.meta.url).href;
const { connect } = await import(MODULE);

const servers = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close(), server.closeAllConnections();
});

// Each request takes the next answer, the last one again and again: a function of request and response, or text.
const serve = async (...answers) => {
  const requests = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    requests.push({ method: request.method, headers: request.headers, body, at: performance.now() });
    const answer = answers[Math.min(requests.length, answers.length) - 1];
    if (typeof answer === "function") return answer(response);
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.end(answer);
  });
  servers.push(server);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/events`, requests };
};
const refuse = (status, headers = {}) => (response) => response.writeHead(status, headers).end();
const stream = (send) => (response) => {
  response.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
  response.flushHeaders();
  return send(response);
};
const once = (connection, type) =>
  new Promise((resolve) => {
    const remove = connection.on(type, (event) => (remove(), resolve(event)));
  });
const read = async (connection, count) => {
  const events = [];
  for await (const event of connection) if (events.push(event) === count) break;
  return events;
};
const END = refuse(204);
const QUICK = "retry: 1\n\n";

const HARD = [
  "\ufeffdata: bom\r\n\r\n",
  "id: 1\rdata: one\rdata: two\r\r",
  ": comment\n:\ndata\n\n",
  "data:  two spaces\r\ndata:none\r\n\r\n",
  "id: b\0d\nevent: named\ndata: id stays\n\n",
  "id: 2\n\n",
  "retry: 1x\nretry: -1\nretry: 1\nunknown: x\ndata: ünd \u2028 😀\n\n",
  "event: nothing\n\ndata: unnamed again\n\n",
  "id\ndata: no id\n\n",
  "id: 9\ndata: cut off\n",
].join("");
const READ = [
  ["message", "bom", ""],
  ["message", "one\ntwo", "1"],
  ["message", "", "1"],
  ["message", " two spaces\nnone", "1"],
  ["named", "id stays", "1"],
  ["message", "ünd \u2028 😀", "2"],
  ["message", "unnamed again", "2"],
  ["message", "no id", ""],
];

// Sockets join what is written in a row, so these parts come from a fetch() of the test's own.
const readParts = async (...bodies) => {
  const fetched = globalThis.fetch;
  const reported = [];
  globalThis.fetch = async (url, { headers }) => {
    reported.push(headers.get("Last-Event-ID"));
    const parts = bodies.shift();
    if (!parts) return new Response(null, { status: 204 });
    const pull = (controller) => (parts.length ? controller.enqueue(parts.shift()) : controller.close());
    return new Response(new ReadableStream({ pull }, { highWaterMark: 0 }), {
      headers: { "Content-Type": "text/event-stream" },
    });
  };
  try {
    const connection = connect("http://h/");
    const delays = [];
    connection.on("error", ({ delay }) => delays.push(delay));
    return { events: await read(connection), reported, delays };
  } finally {
    globalThis.fetch = fetched;
  }
};

test("the event stream is parsed as the standard says", async () => {
  const bytes = Buffer.from(HARD);
  for (const parts of [[bytes], Array.from(bytes, (byte) => Buffer.of(byte))]) {
    const { events, reported, delays } = await readParts(parts);
    assert.deepEqual(events.map(({ type, data, lastEventId }) => [type, data, lastEventId]), READ);
    assert.deepEqual(reported, [null, null], "an unfinished block has no id");
    assert.ok(delays[0] <= 1.25, "retry: 1 was taken");
  }
});

test("it is parsed alike wherever it is split", async () => {
  const bytes = Buffer.from("\ufeffid: ü\r\ndata: a\r\rdata: b\n\r\ndata: c\r\ndata: d\r\n\r\nretry: 1\n\n");
  const bodies = Array.from(bytes, (_, at) => [bytes.subarray(0, at), bytes.subarray(at)].filter((part) => part.length));
  const { events } = await readParts(...bodies);
  assert.equal(events.length, 3 * bytes.length);
  events.forEach(({ data }, at) => assert.equal(data, ["a", "b", "c\nd"][at % 3]));
});

test("the trace of an event is with it, and with no other", async () => {
  const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const body = `data: a\n\ntraceparent: ${trace}\ndata: b\n\ntraceparent: lost\n\ndata: c\n\n`;
  const { url } = await serve(body, END);
  const events = await read(connect(url));
  assert.deepEqual(events.map(({ data, traceparent }) => [data, traceparent]), [["a", undefined], ["b", trace], ["c", undefined]]);
});

test("a client that comes back reports its id, also one that is no ASCII", async () => {
  const { url, requests } = await serve(`${QUICK}id: zürich\ndata: 1\n\n`, "id: 2\n\n", "data: 3\n\n", END);
  const events = await read(connect(url));
  assert.deepEqual(events.map((event) => event.data), ["1", "3"]);
  const reported = requests.map(({ headers }) => headers["last-event-id"]);
  assert.deepEqual(reported.map((id) => id && Buffer.from(id, "latin1").toString()), [undefined, "zürich", "2", "2"]);
  assert.equal(requests[0].headers.accept, "text/event-stream");
});

test("it begins from an id that it is given", async () => {
  const { url, requests } = await serve(END);
  assert.deepEqual(await connect(url, { lastEventId: "k-7" }).closed, { reason: "ended", status: 204 });
  assert.equal(requests[0].headers["last-event-id"], "k-7");
});

test("method and body are sent with every attempt", async () => {
  const { url, requests } = await serve(`${QUICK}data: 1\n\n`, END);
  await connect(url, { method: "POST", body: "{}", headers: { "Content-Type": "application/json" } }).closed;
  assert.deepEqual(requests.map(({ method, body }) => [method, body]), [["POST", "{}"], ["POST", "{}"]]);
  assert.equal(requests[1].headers["content-type"], "application/json");
});

test("headers are asked for at every attempt, and once more after 401", async () => {
  const asked = [];
  const headers = async (refused) => ({ Authorization: `token ${asked.push(refused)}` });
  const { url, requests } = await serve(refuse(401), QUICK, refuse(401), refuse(401));
  const { reason, status } = await connect(url, { headers }).closed;
  assert.deepEqual([reason, status], ["refused", 401]);
  assert.deepEqual(asked, [false, true, false, true]);
  assert.equal(requests[3].headers.authorization, "token 4");
});

test("headers that never change are not tried again after 401", async () => {
  const { url, requests } = await serve(refuse(401));
  assert.equal((await connect(url, { headers: { "X-Token": "t" } }).closed).status, 401);
  assert.equal(requests.length, 1);
});

for (const [name, answer, status] of [
  ["404", refuse(404), 404],
  ["another type", (response) => response.writeHead(200, { "Content-Type": "text/html" }).end("<p>"), 200],
  ["409 without an id", refuse(409), 409],
]) {
  test(`it gives up on ${name}, and iteration throws`, async () => {
    const { url, requests } = await serve(answer);
    const connection = connect(url);
    await assert.rejects(read(connection), new RegExp(`answered ${status}`));
    assert.deepEqual([(await connection.closed).status, requests.length], [status, 1]);
  });
}

test("it waits as long as Retry-After says, also for a status of 4xx", async () => {
  const date = new Date(Date.now() + 120000).toUTCString();
  for (const [status, value, least] of [[503, "1", 1000], [429, date, 60000], [502, undefined, 0]]) {
    const { url } = await serve(refuse(status, value ? { "Retry-After": value } : {}));
    const connection = connect(url);
    const { delay, status: said } = await once(connection, "error");
    connection.close();
    assert.equal(said, status);
    assert.ok(delay >= least && delay <= 1.25 * 120000, `${value}: ${delay}`);
  }
});

test("the wait is retry with jitter, and grows with failed attempts only", async () => {
  const { url } = await serve(QUICK, QUICK, refuse(500), refuse(500), refuse(500));
  const delays = [];
  const connection = connect(url);
  await new Promise((resolve) => {
    connection.on("error", ({ delay }) => delays.push(delay) === 5 && resolve());
  });
  connection.close();
  [1, 1, 2, 4, 8].forEach((base, at) => assert.ok(delays[at] >= base && delays[at] <= 1.25 * base, `${delays}`));
});

test("a retry beyond what a timer can hold does not make it come back at once", async () => {
  const { url, requests } = await serve("retry: 99999999999999\n\n");
  const connection = connect(url);
  const { delay } = await once(connection, "error");
  for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
  connection.close();
  assert.deepEqual([delay, requests.length], [2 ** 31 - 1, 1]);
});

const OPEN = "id: 5\nevent: stream-open\ndata: \nretry: 1\n\n";
const RESET = 'id: 7\nevent: stream-reset\ndata: {"reason":"epoch"}\n\n';

test("events wait until reset() has loaded the state", async () => {
  const { url, requests } = await serve(`${OPEN}${RESET}id: 8\ndata: after\n\n`, END);
  const seen = [];
  let loaded;
  const reset = ({ data }) => {
    seen.push(JSON.parse(data).reason);
    return new Promise((resolve) => (loaded = resolve));
  };
  const connection = connect(url, { reset });
  connection.on("message", ({ data }) => seen.push(data));
  await once(connection, "stream-reset");
  for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
  assert.deepEqual(seen, ["epoch"]);
  seen.push("loaded");
  loaded();
  await connection.closed;
  assert.deepEqual(seen, ["epoch", "loaded", "after"]);
  assert.equal(requests[1].headers["last-event-id"], "8");
});

test("a state that has an id is what the stream goes on from", async () => {
  const { url, requests } = await serve(
    stream((response) => response.write(`${OPEN}${RESET}id: 8\ndata: in the state\n\n`)),
    `${OPEN.replace("id: 5", "id: 9")}id: 10\ndata: new\n\n`,
    END
  );
  const events = await read(connect(url, { reset: async () => "9" }));
  assert.deepEqual(events.map(({ data }) => data), ["new"]);
  assert.deepEqual(requests.map(({ headers }) => headers["last-event-id"]), [undefined, "9", "10"]);
});

test("a state whose id is reset again and again is not loaded in a busy loop", async () => {
  const { url } = await serve(`${OPEN}${RESET}`);
  const connection = connect(url, { reset: () => "gone" });
  const { delay } = await once(connection, "error");
  connection.close();
  assert.ok(delay >= 2);
});

test("reset() that fails is called again on a new stream, and nothing is delivered before", async () => {
  const { url, requests } = await serve(`${OPEN}${RESET}id: 8\ndata: lost with the state\n\n`, `${OPEN}id: 6\ndata: new\n\n`, END);
  let calls = 0;
  const reset = () => {
    if (++calls === 1) throw new Error("no state");
  };
  const connection = connect(url, { reset });
  const [failure, events] = await Promise.all([once(connection, "error"), read(connection)]);
  assert.equal(failure.error.message, "no state");
  assert.deepEqual(events.map(({ data }) => data), ["new"]);
  assert.equal(calls, 2);
  assert.deepEqual(requests.map(({ headers }) => headers["last-event-id"]), [undefined, undefined, "6"]);
});

test("409 is a reset told by the status", async () => {
  const { url, requests } = await serve(refuse(409), "id: 3\ndata: after\nretry: 1\n\n", END);
  const seen = [];
  const connection = connect(url, { lastEventId: "old", reset: () => void seen.push("loaded") });
  connection.on("message", ({ data }) => seen.push(data));
  await connection.closed;
  assert.deepEqual(seen, ["loaded", "after"]);
  assert.deepEqual(requests.map(({ headers }) => headers["last-event-id"]), ["old", undefined, "3"]);
});

test("stream-end ends it, and its data is in the result", async () => {
  const { url, requests } = await serve(`${OPEN}data: 1\n\nid: 9\nevent: stream-end\ndata: {"state":"done"}\n\n`);
  const connection = connect(url);
  assert.deepEqual((await read(connection)).map(({ data }) => data), ["1"]);
  const { reason, event } = await connection.closed;
  assert.deepEqual([reason, event.data, requests.length], ["ended", '{"state":"done"}', 1]);
});

test("names of another server that begin with stream- are its own", async () => {
  const { url } = await serve(`${QUICK}event: stream-end\ndata: 1\n\n`, "event: stream-reset\ndata: 2\n\n", END);
  const reset = () => assert.fail("not a hub");
  assert.deepEqual((await read(connect(url, { reset }))).map(({ data }) => data), ["1", "2"]);
});

test("two heartbeats without a byte mean that the connection is dead", async () => {
  const { url } = await serve(stream((response) => response.write("id: 1\ndata: 1\nretry: 1\n\n")), "data: 2\n\n", END);
  const connection = connect(url, { heartbeat: 1.5 });
  const [failure, events] = await Promise.all([once(connection, "error"), read(connection)]);
  assert.match(failure.error.message, /silent/);
  assert.equal(events.at(-1).data, "2");
});

test("a hub says how often it sends heartbeats", async () => {
  const opening = "event: stream-open\ndata\nretry: 1\n\n";
  const { url } = await serve(
    stream((response) => response.write(`: sse-hub heartbeat=1\n${opening}`)),
    `: sse-hub heartbeat=0\n${opening}data: 2\n\n`,
    END
  );
  const connection = connect(url);
  const [failure, events] = await Promise.all([once(connection, "error"), read(connection)]);
  assert.match(failure.error.message, /silent/);
  assert.equal(events.at(-1).data, "2");
});

test("a slow consumer makes the server wait, and is not taken for a dead connection", async () => {
  let written = 0;
  const text = `data: ${"x".repeat(60000)}\n\n`;
  const { url } = await serve(
    stream((response) => {
      const more = () => {
        while (written < 2000 && response.write(text)) written += 1;
        response.once("drain", more);
      };
      more();
    })
  );
  let count = 0;
  for await (const { data } of connect(url, { heartbeat: 0.25 })) {
    assert.equal(data.length, 60000);
    if (++count === 1) await new Promise((resolve) => setTimeout(resolve, 800));
    if (count === 20) break;
  }
  assert.ok(written < 1000, `${written} were taken`);
});

test("close() and the signal end it at once, whatever it does", async () => {
  for (const answer of [stream(() => {}), refuse(503), () => {}]) {
    for (const before of [true, false]) {
      const { url } = await serve(answer);
      const controller = new AbortController();
      const connection = connect(url, { signal: controller.signal });
      if (!before) await Promise.race([once(connection, "open"), once(connection, "error"), new Promise(setImmediate)]);
      const events = read(connection);
      before ? controller.abort() : connection.close();
      assert.deepEqual(await connection.closed, { reason: "closed" });
      assert.deepEqual(await events, []);
    }
  }
});

test("a callback that throws keeps nobody from the event, and is not hidden", async () => {
  const { url, requests } = await serve(`${QUICK}data: 1\n\n`, END);
  const program = `
    const { connect } = await import(${JSON.stringify(MODULE)});
    const connection = connect(${JSON.stringify(url)});
    process.on("uncaughtException", ({ message }) => console.log("uncaught", message));
    connection.on("message", () => { throw new Error("mine"); });
    connection.on("message", ({ data }) => console.log("heard", data));`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: ["ignore", "pipe", "inherit"] });
  assert.equal((await child.stdout.setEncoding("utf8").toArray()).join(""), "heard 1\nuncaught mine\n");
  assert.equal(requests.length, 2);
});

test("wrong arguments are errors of the call", () => {
  for (const [url, options] of [
    ["http://[", {}],
    ["http://h/", { body: "GET has none" }],
    ["http://h/", { method: "B D" }],
    ["http://h/", { headers: { "a b": "c" } }],
    ["http://h/", { heartbeat: "soon" }],
    ["http://h/", { reset: "load" }],
    ["http://h/", { withCredentials: true }],
  ]) assert.throws(() => connect(url, options), TypeError, JSON.stringify(options));
  const connection = connect("http://h/");
  assert.throws(() => connection.on("message"), TypeError);
  connection.close();
});
