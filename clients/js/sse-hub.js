// Server-Sent Events by fetch(): the client of sse-hub, which reads any event stream.
// docs/browser-client.md explains it, and index.d.ts has its types. `build.mjs` writes what hubs serve.

const LONGEST = 2 ** 31 - 1; // A longer timeout of setTimeout() fires at once.
const LONGEST_BACKOFF = 60000;

// Parse an event stream: the function takes text and returns the blocks that it completes.
// A block without data has `data: undefined`: it is no event, but its id holds.
const parser = (id, setRetry, setBeat) => {
  let rest = "";
  let afterCR = false;
  let type = "";
  let data = [];
  let traceparent;
  return (text) => {
    const blocks = [];
    if (!text) return blocks;
    const skip = afterCR && text[0] === "\n" ? 1 : 0; // A CRLF was split: its CR has ended the line already.
    afterCR = text.endsWith("\r");
    const lines = (rest + text.slice(skip)).split(/\r\n|\n|\r/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, value = ""] = /^([^:]*)(?:: ?([^]*))?$/.exec(line);
      if (!line) {
        blocks.push({ type: type || "message", data: data.length ? data.join("\n") : undefined, id, traceparent });
        type = "";
        data = [];
        traceparent = undefined;
      } else if (field === "data") data.push(value);
      else if (field === "event") type = value;
      else if (field === "traceparent") traceparent = value;
      else if (field === "id" && !value.includes("\0")) id = value;
      else if (field === "retry" && /^\d+$/.test(value)) setRetry(+value);
      else if (!field && /^sse-hub heartbeat=/.test(value)) setBeat(+value.slice(18));
    }
    return blocks;
  };
};

// Milliseconds that a Retry-After header asks for: it has seconds or a date.
const retryAfter = (value) => (/^\d+$/.test(value) ? value * 1000 : Date.parse(value) - Date.now()) || 0;

// fetch() takes header values as bytes, one per character; an id may be any Unicode text.
const asBytes = (text) => Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("");

export const connect = (url, options = {}) => {
  const { headers, method = "GET", body, credentials, lastEventId, reset, keep, share, signal, heartbeat, ...others } = options;
  for (const name in others) throw new TypeError(`${name}: no such option`);
  const isAsked = typeof headers === "function";
  // What is wrong with the arguments is an error here, not a failed attempt later.
  const request = new Request(url, { method, body, credentials, headers: isAsked ? {} : headers });
  if (heartbeat !== undefined && !(heartbeat >= 0)) throw new TypeError(`heartbeat: seconds, not ${heartbeat}`);
  if (reset && typeof reset !== "function") throw new TypeError("reset: a function");

  const key = `sse-hub ${request.method} ${request.url} ${typeof body === "string" ? body : ""}`;
  const listeners = new Map();
  const iterators = new Set();
  const window = globalThis.addEventListener ? globalThis : undefined;
  const closing = new AbortController(); // It removes every listener, and the requests for locks.
  const once = { signal: closing.signal };
  let position = lastEventId ?? (keep && sessionStorage.getItem(key)) ?? "";
  let retry = 3000;
  let beat = 0; // Seconds between the server's heartbeats, as a hub says in its first comment.
  let isHub = false; // Names that start with "stream-" are control events of a hub only.
  let stale = 0; // Before the next event, reset() has to load the state: 1 at `stream-open`, 2 at the head.
  let hasJumped = false; // reset() named an id; if that is reset too, the next attempt waits.
  let over;
  let abort = new AbortController();
  let wake = () => {};
  let resolveClosed;
  // Shared by the tabs of an origin: the tab that holds a lock leads. It reads the stream, and says its blocks to the
  // others, each with the leader's position before it.
  const locks = share && globalThis.navigator?.locks;
  const channel = locks && new BroadcastChannel(key);
  let leads = !channel;
  let release = () => {};
  let mark = ""; // The id of the last event that was no control event.
  const said = []; // Blocks of the leader that were not taken.
  let hear = () => {};
  let isWaiting = false; // A tab that catches up waits for bytes: nothing is being delivered.
  let hasCaughtUp = false;
  const closed = new Promise((resolve) => (resolveClosed = resolve));

  // What throws here is an error of the page, not of the stream.
  const attempt = (action) => {
    try {
      action();
    } catch (error) {
      setTimeout(() => {
        throw error;
      });
    }
  };

  const emit = (event) => {
    for (const callback of [...(listeners.get(event.type) ?? [])]) attempt(() => callback(event));
  };

  const remember = (id) => {
    position = id;
    if (keep && !stale) attempt(() => sessionStorage.setItem(key, id)); // It may be full.
  };

  const forget = (since) => {
    stale = reset ? since : 0;
    position = "";
    if (keep) sessionStorage.removeItem(key);
  };

  const finish = (result) => {
    if (over) return;
    over = result;
    abort.abort();
    closing.abort();
    release();
    channel?.close();
    wake();
    hear();
    for (const iterator of iterators) iterator.end();
    resolveClosed(result);
  };
  const close = () => finish({ reason: "closed" });

  let isLost = false; // The last attempt failed without an answer: being online again is worth another one.
  const online = () => isLost && wake();
  const offline = () => abort.abort(new Error("offline"));

  // Wait for bytes, but not longer than two heartbeats: a connection that is silent for that long is dead.
  const alive = async (promise) => {
    const quiet = (heartbeat ?? beat) * 2000;
    const timer = quiet && setTimeout(() => abort.abort(new Error("silent for two heartbeats")), Math.min(quiet, LONGEST));
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  };

  // Have reset() load the state. The events wait in the connection, because nobody reads it meanwhile.
  // True if the state has an id of its own, from which the stream has to go on.
  const load = async (event) => {
    const id = stale ? await reset(event) : undefined;
    stale = 0;
    if (over || typeof id !== "string" || id === position) return false;
    position = id;
    return true;
  };

  // Deliver a block. True if the stream has to begin anew from `position`.
  const take = async ({ type, data, id, traceparent }) => {
    if (data === undefined) return void remember(id);
    const event = { type, data, lastEventId: id, traceparent };
    isHub ||= type === "stream-open";
    const isControl = isHub && type.startsWith("stream-");
    if (isControl && type === "stream-reset") forget(1);
    position = id;
    emit(event);
    if (!isControl) {
      mark = id;
      hasJumped = false;
      await Promise.all([...iterators].map((iterator) => iterator.push(event)));
    }
    if (isControl && stale && (await load(event))) return true;
    if (over) return false;
    remember(id);
    if (isControl && type === "stream-end") finish({ reason: "ended", event });
    return false;
  };

  // The leader is, or comes, where this tab is: what follows is in `said`.
  const follows = () => !leads && said.some((block) => block.before === position);

  const run = async (catchesUp) => {
    let failures = 0;
    let wasRefused = false;
    while (!over && (leads || catchesUp)) {
      let after = 0;
      let hasOpened = false;
      let status, error;
      abort = new AbortController();
      isLost = false;
      try {
        const sent = new Headers(isAsked ? await headers(wasRefused) : headers);
        sent.set("Accept", "text/event-stream");
        if (position) sent.set("Last-Event-ID", asBytes(position));
        if (over) return;
        isLost = true;
        const answer = await alive(
          fetch(request.url, { method, body, credentials, headers: sent, cache: "no-store", signal: abort.signal })
        );
        isLost = false;
        status = answer.status;
        const again = answer.headers.get("Retry-After");
        if (status === 204) return finish({ reason: "ended", status });
        if (status === 200 && /^text\/event-stream\s*(;|$)/i.test(answer.headers.get("Content-Type"))) {
          hasOpened = true;
          wasRefused = false;
          if (!stale) failures = 0;
          isLost = true;
          emit({ type: "open", status });
          if (!leads) channel.postMessage(0);
          const parse = parser(position, (ms) => (retry = ms), (seconds) => (beat = seconds));
          const decoder = new TextDecoder(); // It drops a byte order mark.
          const reader = answer.body.getReader();
          let jump = stale > 1 && !over && (await load());
          while (!jump && !over) {
            isWaiting = !leads;
            const { done, value } = await alive(reader.read());
            isWaiting = false;
            if (done) break;
            for (const block of parse(decoder.decode(value, { stream: true }))) {
              if (over) break;
              if (leads) channel?.postMessage([{ ...block, before: position }]);
              if ((jump = await take(block))) break;
              if (!stale) failures = 0;
              if (follows()) return abort.abort();
            }
          }
          abort.abort();
          isLost = false;
          if (jump) {
            if (!hasJumped && (hasJumped = true)) continue;
            failures += 1;
          }
        } else {
          abort.abort();
          if (status === 401 && isAsked && !wasRefused) {
            wasRefused = true;
            continue;
          }
          if (status === 409 && position) {
            forget(2);
            continue;
          }
          error = new Error(`${request.url} answered ${status} ${answer.headers.get("Content-Type") ?? ""}`.trim());
          if (status < 500 && !again) return finish({ reason: "refused", status, error });
          after = again ? retryAfter(again) : 0;
        }
      } catch (thrown) {
        isWaiting = false;
        if (hasCaughtUp) return (hasCaughtUp = false);
        error = thrown;
        if (stale) position = "";
      }
      if (over || !(leads || catchesUp)) return;
      abort.abort();
      if (!hasOpened || stale) failures += 1;
      const backoff = Math.min(Math.max(retry, 1) * 2 ** failures, Math.max(retry, LONGEST_BACKOFF));
      const delay = Math.min(Math.max(backoff, after) * (1 + Math.random() / 4), LONGEST);
      emit({ type: "error", error, status, delay });
      if (over) return;
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, delay);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  };

  // Take what the leader says, until this tab leads or is not where the leader is.
  const follow = async () => {
    while (!over) {
      if (said.length) {
        if (!position && !stale) position = said[0].before; // A newcomer begins where the leader is.
        const at = said.findIndex((block) => block.before === position);
        if (at < 0 || (await take(said.splice(0, at + 1)[at]))) return;
      } else if (leads) return;
      else await new Promise((resolve) => (hear = resolve));
    }
  };

  const lead = () =>
    locks.request(key, once, () => {
      leads = true;
      hear();
      return new Promise((resolve) => (release = resolve));
    }).catch(() => {});

  const shared = async () => {
    while (!over) {
      try {
        await follow();
        if (leads) {
          said.length = 0;
          await run();
        } else if (!over && !follows()) await locks.request(`${key} 2`, once, () => leads || run(true)); // one tab at a time
      } catch {
        if (stale) position = ""; // reset() failed: run() calls it again.
      }
    }
  };

  if (channel) {
    channel.onmessage = ({ data }) => {
      if (!data && leads && position && !stale) {
        const last = mark || position;
        const at = (before, id) => ({ before, id });
        channel.postMessage([at(last, last), at(last, position), at(position, position)]);
      } else if (data && !leads) {
        said.push(...data);
        hear();
        if (isWaiting && follows()) {
          hasCaughtUp = true;
          abort.abort();
        }
      }
    };
    // A frozen page reads nothing: another tab has to lead.
    const freeze = () => {
      if (!leads) return;
      leads = false;
      abort.abort();
      release();
    };
    window.document?.addEventListener("freeze", freeze, once);
    window.document?.addEventListener("resume", lead, once);
    lead();
    channel.postMessage(0);
  }

  // One event at a time: the next one is read when the consumer asks for it.
  async function* iterate() {
    let give;
    const offer = () => new Promise((resolve) => (give = resolve));
    let offered = offer();
    const iterator = {
      push: (event) => new Promise((taken) => give({ event, taken })),
      end: () => give(),
    };
    iterators.add(iterator);
    try {
      while (!over) {
        const given = await offered;
        offered = offer();
        if (!given) break;
        try {
          yield given.event;
        } finally {
          given.taken();
        }
      }
    } finally {
      iterators.delete(iterator);
      close();
    }
    if (over.error) throw over.error;
  }

  window?.addEventListener("online", online, once);
  window?.addEventListener("offline", offline, once);
  signal?.addEventListener("abort", close, once);
  if (signal?.aborted) close();
  else queueMicrotask(channel ? shared : run);

  return {
    url: request.url,
    closed,
    close,
    get lastEventId() {
      return position;
    },
    on(type, callback) {
      if (typeof callback !== "function") throw new TypeError("on: a function to call");
      if (!listeners.has(type)) listeners.set(type, new Set());
      listeners.get(type).add(callback);
      return () => listeners.get(type).delete(callback);
    },
    [Symbol.asyncIterator]: iterate,
  };
};
