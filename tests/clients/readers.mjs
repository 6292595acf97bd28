// Published clients that read runs, driven by lines of JSON: each command opens or aborts a reader, and each reader
// prints the text that it gets, how its stream ended, and the bytes of each response's body.
import { createInterface } from "node:readline";
import { HttpAgent } from "@ag-ui/client";
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { DefaultChatTransport, readUIMessageStream } from "ai";
import OpenAI from "openai";

globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };
globalThis.window ??= globalThis;

// When a connection breaks, some leave a rejected promise behind that nobody awaits; their readers must end all the same.
process.on("unhandledRejection", (error) => process.stderr.write(`unhandled: ${error}\n`));

const print = (reader, said) => process.stdout.write(JSON.stringify({ reader, ...said }) + "\n");

const clients = {
  async ai({ url, id, again, signal, text, fetch }) {
    const transport = new DefaultChatTransport({
      api: `${url}/api/chat`,
      fetch: (input, options) => fetch(input, { ...options, signal }),
    });
    const messages = [{ id: "u", role: "user", parts: [{ type: "text", text: "hi" }] }];
    const stream = again
      ? await transport.reconnectToStream({ chatId: id })
      : await transport.sendMessages({ trigger: "submit-message", chatId: id, messages });
    if (stream === null) return "nothing";
    let end = "done", seen = "";
    const watched = stream.pipeThrough(new TransformStream({
      transform(chunk, controller) {
        if (chunk.type === "abort") end = "stopped";
        controller.enqueue(chunk);
      },
    }));
    const onError = (error) => { end = `error: ${error.message ?? error}`; };
    for await (const message of readUIMessageStream({ stream: watched, onError })) {
      const all = message.parts.filter((part) => part.type === "text").map((part) => part.text).join("");
      if (all !== seen) text(all.slice(seen.length));
      seen = all;
    }
    return end;
  },

  async openai({ url, id, signal, text, fetch }) {
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, fetch });
    const request = { model: "m", messages: [], stream: true, user: id };
    for await (const chunk of await client.chat.completions.create(request, { signal })) {
      text(chunk.choices[0].delta.content ?? "");
    }
    return "done";
  },

  async agui({ url, id, again, signal, text, fetch }) {
    const agent = new HttpAgent({ url: `${url}/agui${again ? "?again" : ""}`, threadId: id, fetch });
    signal.addEventListener("abort", () => agent.abortRun());
    let end = "nothing";
    await agent.runAgent({ runId: "r" }, {
      onRunStartedEvent() { end = "done"; },
      onTextMessageContentEvent: ({ event }) => text(event.delta),
      onRunErrorEvent: ({ event }) => { end = event.code === "stopped" ? "stopped" : `error: ${event.message}`; },
    }).catch((error) => { if (end === "done") throw error; });
    return end;
  },

  async fetchEventSource({ url, id, resumes, signal, text, fetch }) {
    let end = "no end";
    await fetchEventSource(`${url}/sse/${id}`, {
      signal,
      fetch,
      openWhenHidden: true,
      // It knows no 204, and would look for a body.
      async onopen(response) { if (response.status === 204) { end = "nothing"; throw new Error(end); } },
      onmessage(event) {
        if (event.event === "stream-end") {
          const { state, error } = JSON.parse(event.data);
          end = state === "failed" ? `error: ${error}` : state;
        } else if (event.event === "") {
          text(JSON.parse(event.data));
        }
      },
      // Unless this throws, it comes back with the last id.
      onerror(error) { if (!resumes || end !== "no end") throw error; },
    }).catch((error) => { if (end !== "nothing") throw error; });
    return end;
  },
};

const aborts = new Map();
for await (const line of createInterface({ input: process.stdin })) {
  const { op, reader, client, ...options } = JSON.parse(line);
  if (op === "abort") {
    aborts.get(reader).abort();
    continue;
  }
  const controller = new AbortController();
  aborts.set(reader, controller);
  const text = (part) => part && print(reader, { text: part });
  let responses = 0;
  const watchedFetch = async (input, init) => {
    const response = await fetch(input, init), body = responses++;
    if (response.body === null) return response;
    const watched = new TransformStream({
      transform(chunk, next) {
        print(reader, { body, bytes: Buffer.from(chunk).toString("base64") });
        next.enqueue(chunk);
      },
    });
    return new Response(response.body.pipeThrough(watched), response);
  };
  clients[client]({ ...options, signal: controller.signal, text, fetch: watchedFetch }).then(
    (end) => print(reader, { end }),
    (error) => print(reader, { end: controller.signal.aborted ? "aborted" : `error: ${error.message}` }),
  );
}
