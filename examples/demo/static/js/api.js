// @ts-check
// The way back to the server: an ordinary POST with JSON.

/**
 * Post and return the answer; throws an Error whose message can be shown.
 *
 * @param {string} path
 * @param {object} body
 * @returns {Promise<any>}
 */
export async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const detail = answer.detail;
    throw new Error(typeof detail === "string" ? detail : detail?.[0]?.msg ?? `The server said ${response.status}.`);
  }
  return answer;
}
