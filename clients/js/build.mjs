// Write the module that hubs serve: the source without comments and indentation, and with short local names.
//
//     node clients/js/build.mjs            write python/sse_hub/_client/sse-hub.min.js
//     node clients/js/build.mjs --check    fail if that file is out of date, or larger than 3 KB gzipped

import { readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const SOURCE = new URL("sse-hub.js", import.meta.url);
const TARGET = new URL("../../python/sse_hub/_client/sse-hub.min.js", import.meta.url);
const MOST = 3 * 1024;

// A regular expression is told from a division by what stands before it, as far as the source needs that.
const TOKEN =
  /\/\/[^\n]*|\/\*[^]*?\*\/|(?<=[(,=:?&|!]\s*|return )\/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n[])+\/[a-z]*|`(?:\\.|[^`\\])*`|"(?:\\.|[^"\\\n])*"|[A-Za-z_$][\w$]*|\d[\w.]*|\s+|[^]/g;

// Local names that the source uses neither as a property nor in a text: they become short ones.
const LOCAL = (
  "abort after afterCR again alive asBytes attempt backoff catchesUp channel closing decoder emit failures finish " +
  "follow follows forget freeze given hasCaughtUp hasJumped hasOpened hear isAsked isControl isHub isLost isWaiting " +
  "iterate iterator iterators jump lead leads line lines listeners load locks mark offer offered offline once online over parse " +
  "parser position quiet reader release remember resolveClosed rest retryAfter run said sent shared skip stale " +
  "timer wake wasRefused LONGEST LONGEST_BACKOFF beat setBeat"
).split(" ");
// Letters, and two of them once these are used up, except what the source uses already.
const LETTERS = [..."abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"];
const NAMES = [...LETTERS, ...LETTERS.map((letter) => "$" + letter)];

export const minify = (source) => {
  const used = new Set([...source.matchAll(TOKEN)].map(([token]) => token));
  const names = NAMES.filter((name) => !used.has(name));
  const short = new Map(LOCAL.map((name, at) => [name, names[at]]));
  let out = "";
  let space = "";
  for (const [token] of source.matchAll(TOKEN)) {
    if (token.startsWith("//") || token.startsWith("/*")) continue;
    if (/^\s/.test(token)) {
      space = space || token.includes("\n") ? (token.includes("\n") || space === "\n" ? "\n" : " ") : " ";
      continue;
    }
    const last = out.at(-1) ?? "";
    const words = /[\w$]/.test(last) && /[\w$]/.test(token[0]);
    const signs = /[+-]/.test(last) && last === token[0];
    // The source ends every statement with a semicolon or a brace, so a line's end is only kept behind a brace
    // that could end an expression.
    if (space && (words || signs)) out += " ";
    else if (space === "\n" && last === "}" && /[\w$([`"]/.test(token[0])) out += "\n";
    if (token === "}" && last === ";") out = out.slice(0, -1);
    out += last === "." && !out.endsWith("...") ? token : (short.get(token) ?? token);
    space = "";
  }
  return `${out}\n`;
};

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const made = minify(readFileSync(SOURCE, "utf8"));
  const size = gzipSync(made, { level: 9 }).length;
  if (size > MOST) throw new Error(`${size} bytes gzipped, more than ${MOST}`);
  if (!process.argv.includes("--check")) writeFileSync(TARGET, made);
  else if (readFileSync(TARGET, "utf8") !== made) throw new Error("out of date: node clients/js/build.mjs");
  console.log(`${made.length} bytes, ${size} gzipped`);
}
