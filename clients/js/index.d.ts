/** An event of the stream. */
export interface StreamEvent {
  /** The event's name; `message` without one. */
  readonly type: string;
  /** Text; JSON is not parsed. */
  readonly data: string;
  /** The stream's id at this event; empty before the first. */
  readonly lastEventId: string;
  /** The W3C trace context that came with the event: `Hub(trace=True)`. Undefined without. */
  readonly traceparent?: string;
}

/** The stream is open: `on("open", …)`. */
export interface OpenEvent {
  readonly type: "open";
  readonly status: number;
}

/** An attempt failed, or a stream ended, and another attempt follows: `on("error", …)`. */
export interface RetryEvent {
  readonly type: "error";
  /** What went wrong; undefined if the server ended the stream. */
  readonly error?: unknown;
  /** The status of the answer; undefined if there was none. */
  readonly status?: number;
  /** Milliseconds until the next attempt. */
  readonly delay: number;
}

/** Why a connection is over. */
export type Result =
  /** `close()` was called, or the signal aborted. */
  | { readonly reason: "closed" }
  /** Nothing more will come: status 204, or the hub's `stream-end`, which is `event` then. */
  | { readonly reason: "ended"; readonly status?: 204; readonly event?: StreamEvent }
  /** The server refused for good: a status other than 200, or another content type. */
  | { readonly reason: "refused"; readonly status: number; readonly error: Error };

export interface Options {
  /**
   * Headers of each request, or a function that is asked at every attempt. After 401 it is asked once more, with
   * `refused` true, before the connection gives up.
   */
  headers?: HeadersInit | ((refused: boolean) => HeadersInit | undefined | Promise<HeadersInit | undefined>);
  /** Default `GET`. */
  method?: string;
  /** Sent with every attempt; streams cannot be. */
  body?: Exclude<BodyInit, ReadableStream> | null;
  /** As for `fetch`; default `same-origin`. */
  credentials?: RequestCredentials;
  /** Begin after the event with this id. */
  lastEventId?: string;
  /**
   * Keep the last id in sessionStorage, so that a reloaded page goes on where it was. Default false: a page that
   * loses its state in a reload begins anew.
   */
  keep?: boolean;
  /**
   * Load the state anew, after the hub's `stream-reset` or a 409. No event is delivered until it is done. If it
   * gives the id of the last event that the state includes, the stream goes on right behind that event.
   */
  reset?: (event?: StreamEvent) => unknown | Promise<unknown>;
  /**
   * One connection for all tabs of the origin that share this URL, method and text of the body. Default false.
   * Ignored where there are no Web Locks: under Node, and on pages without HTTPS, except on localhost.
   */
  share?: boolean;
  /**
   * Seconds between the server's heartbeats: without a byte for twice as long, the connection is taken for dead.
   * By default what a hub says in its stream; never for those of other servers. 0 turns it off.
   */
  heartbeat?: number;
  /** Closes the connection. */
  signal?: AbortSignal;
}

export interface Connection extends AsyncIterable<StreamEvent> {
  /** The absolute address. */
  readonly url: string;
  /** The id that the next attempt reports; empty if there is none. */
  readonly lastEventId: string;
  /** Resolves when the connection is over. */
  readonly closed: Promise<Result>;
  /** Call `callback` for each event of that name. Returns a function that removes it. */
  on(type: "open", callback: (event: OpenEvent) => void): () => void;
  on(type: "error", callback: (event: RetryEvent) => void): () => void;
  on(type: string, callback: (event: StreamEvent) => void): () => void;
  /** Close the connection for good. */
  close(): void;
}

/**
 * Open a stream of server-sent events, and keep it open.
 *
 * @throws TypeError if the address or an option is wrong.
 */
export function connect(url: string | URL, options?: Options): Connection;
