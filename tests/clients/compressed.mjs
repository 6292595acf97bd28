// Prints the `n` of each event of a stream as soon as it is decoded: `node compressed.mjs fetch|eventsource URL`.
// Any error ends the program with a status.
import { EventSource } from "eventsource";

const [, , client, url] = process.argv;
const isGzip = (response) => {
  if (response.headers.get("content-encoding") !== "gzip") throw new Error("the body is not compressed");
  return response;
};

if (client === "eventsource") {
  const source = new EventSource(url, { fetch: async (input, init) => isGzip(await fetch(input, init)) });
  source.onmessage = ({ data }) => console.log(JSON.parse(data).n);
  source.addEventListener("stream-end", () => source.close());
  source.onerror = ({ message }) => { throw new Error(message); };
} else {
  const response = isGzip(await fetch(url));
  let rest = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith('data: {"n"')) console.log(JSON.parse(line.slice(6)).n);
  }
}
