// Server-sent events, read by `fetch`: a refusal has a reason there, and an EventSource shows none.

import { CLIENT, Problem } from "./http.js";

const AGAIN_MS = 2000;
const AGAIN_MAX_MS = 30_000;

/**
 * Follows the events of `path` until `signal` ends it: `onEvent(name, data)` takes each. `position` keeps the id of the last event, so
 * that a lost connection is resumed where it was.
 *
 * Throws a Problem when the service refuses the stream or ends it with a reason.
 */
export async function follow(path, onEvent, signal, position = { id: undefined }) {
  for (let pause = AGAIN_MS; !signal.aborted; pause = Math.min(2 * pause, AGAIN_MAX_MS)) {
    const headers = { Accept: "text/event-stream", "Umbra-Client": CLIENT, ...(position.id && { "Last-Event-ID": position.id }) };
    const response = await fetch(path, { headers, signal, cache: "no-store", credentials: "same-origin" }).catch(() => undefined);
    if (signal.aborted) return;
    if (response?.ok) {
      pause = AGAIN_MS;
      await read(response.body, onEvent, position, signal);
    } else if (response) {
      const problem = new Problem(response.status, await response.json().catch(() => ({})));
      const isPassing = response.status === 429 || (response.status >= 500 && problem.body.error !== "search-too-long");
      if (!isPassing) throw problem;
    }
    await waited(pause, signal);
  }
}

async function read(body, onEvent, position, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done || signal.aborted) return;
    for (const { id, name, data } of parser.take(value)) {
      if (id !== undefined) position.id = id;
      if (data === undefined) continue;
      const parsed = JSON.parse(data);
      if (name === "end") throw new Problem(400, parsed);
      onEvent(name, parsed);
    }
  }
}

/** A parser of the event stream format, fed piece by piece. */
export class EventParser {
  constructor() {
    this.rest = "";
  }

  /** Returns the events that `text` completes: `{id, name, data}`. */
  take(text) {
    const blocks = (this.rest + text).split(/\r?\n\r?\n/);
    this.rest = blocks.pop();
    return blocks.map((block) => {
      const event = { id: undefined, name: "message", data: undefined };
      for (const line of block.split(/\r?\n/)) {
        const [, key, value] = line.match(/^([^:]*):? ?(.*)$/s);
        if (key === "id") event.id = value;
        if (key === "event") event.name = value;
        if (key === "data") event.data = event.data === undefined ? value : `${event.data}\n${value}`;
      }
      return event;
    });
  }
}

/** Waits for `ms`, or until `signal` ends it. */
export function waited(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      // A signal may last as long as the page, and is waited for again and again.
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
