// Compiled under `--strict`: what the types of the JavaScript client allow, and what they refuse.
import { connect, type Result, type StreamEvent } from "sse-hub";

const connection = connect(new URL("https://shop.example/events"), {
  method: "POST",
  body: JSON.stringify({ topics: ["prices"] }),
  headers: async (refused) => ({ Authorization: refused ? "new" : "old" }),
  reset: async (event) => (event ? "k-1" : undefined),
  share: true,
  signal: new AbortController().signal,
});
connection.on("tick", ({ traceparent }) => traceparent?.length);
const remove: () => void = connection.on("tick", (event) => JSON.parse(event.data));
connection.on("error", ({ delay, status }) => delay.toFixed(status));
connection.on("open", ({ status }) => status.toFixed());
for await (const event of connection) (event satisfies StreamEvent).lastEventId.length;
const why = (result: Result): string => (result.reason === "refused" ? result.error.message : result.reason);
remove();
why(await connection.closed);

// @ts-expect-error: a stream cannot be sent twice
connect("/events", { body: new ReadableStream() });
// @ts-expect-error: no such option
connect("/events", { withCredentials: true });
// @ts-expect-error: read only
connection.lastEventId = "";
