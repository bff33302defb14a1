// The events of the service: MQTT over a WebSocket. While it is connected, refusals over HTTP are asked for, and passed on like
// those over MQTT.
//
// Handlers share one connection; it is made again, with all subscriptions, when it breaks. The browser sends the cookie of
// the session with the WebSocket, so nothing is shown in CONNECT.

import mqtt from "mqtt";

import { webSocketUrl } from "./command.jsx";
import { ask, CLIENT } from "./http.js";

/** How often refusals over HTTP are asked for. */
const REFUSALS_MS = 2000;
const REFUSALS_PAGE = 100;
/** Filters in one packet; the service takes 512. */
const FILTERS_MAX = 200;

const decoder = new TextDecoder();

export class Live {
  /** @param onStatus receives "live", "connecting" or "refused". */
  constructor(onStatus) {
    this.handlers = new Map();
    this.resumptions = new Set();
    /** Filters that go into the next SUBSCRIBE and UNSUBSCRIBE. */
    this.wanted = new Set();
    this.unwanted = new Set();
    this.client = mqtt.connect(webSocketUrl(), {
      protocolVersion: 5,
      clientId: `${CLIENT}-${Math.random().toString(36).slice(2, 8)}`,
      clean: true,
      keepalive: 30,
      reconnectPeriod: 2000,
      resubscribe: false,
      // Workers made of text are what the page's policy forbids.
      timerVariant: "native",
    });
    this.client.on("connect", () => {
      onStatus("live");
      if (this.wasLive) for (const handler of this.resumptions) handler();
      this.wasLive = true;
      for (const filter of this.handlers.keys()) this.subscribe(filter);
      this.askForRefusals();
    });
    this.client.on("close", () => onStatus("connecting"));
    // 0x87 and its like: the session is over.
    this.client.on("error", (error) => onStatus(error.code >= 0x80 ? "refused" : "connecting"));
    this.client.on("message", (topic, payload) => this.dispatch(topic, payload.length > 0 ? () => JSON.parse(decoder.decode(payload)) : () => null));
    this.timer = setInterval(() => this.askForRefusals(), REFUSALS_MS);
    /** The position after the last refusal that was read. */
    this.refusals = undefined;
  }

  /** Has `handler` called for messages that match `filter`: topic levels, and the JSON or `null`. Returns how to stop. */
  on(filter, handler) {
    const handlers = this.handlers.get(filter) ?? new Set();
    const isNew = handlers.size === 0;
    handlers.add(handler);
    this.handlers.set(filter, handlers);
    // Again where it was there before: what is retained is for the new handler, too.
    if (this.client.connected || !isNew) this.subscribe(filter);
    return () => {
      handlers.delete(handler);
      if (handlers.size === 0) {
        this.handlers.delete(filter);
        this.wanted.delete(filter);
        this.unwanted.add(filter);
        this.later();
      }
    };
  }

  /** Has `handler` called each time the connection was made again, since messages may have been missed. Returns how to stop. */
  onResume(handler) {
    this.resumptions.add(handler);
    return () => this.resumptions.delete(handler);
  }

  /** Publishes a message; rejects with the reason of a refusal. */
  publish(topic, payload, options) {
    return this.client.publishAsync(topic, payload, options);
  }

  end() {
    clearInterval(this.timer);
    this.handlers.clear();
    this.client.end(true);
  }

  subscribe(filter) {
    this.unwanted.delete(filter);
    this.wanted.add(filter);
    this.later();
  }

  /** All that is wanted in one turn is sent together: a list has many rows. */
  later() {
    if (this.scheduled) return;
    this.scheduled = true;
    queueMicrotask(() => {
      this.scheduled = false;
      const [wanted, unwanted] = [[...this.wanted], [...this.unwanted]];
      this.wanted.clear();
      this.unwanted.clear();
      // Whatever has a handler is subscribed to when there is a connection again.
      if (!this.client.connected) return;
      for (let i = 0; i < unwanted.length; i += FILTERS_MAX) this.client.unsubscribe(unwanted.slice(i, i + FILTERS_MAX), () => {});
      // A refusal is in the SUBACK: there is nothing of it that one may see.
      for (let i = 0; i < wanted.length; i += FILTERS_MAX) this.client.subscribe(wanted.slice(i, i + FILTERS_MAX), { qos: 0 }, () => {});
    });
  }

  /** Nothing but the position is taken the first time. A failure is that of the next request, too, or is over by then. */
  async askForRefusals() {
    if (!this.client.connected || this.asking) return;
    this.asking = true;
    try {
      const isFirst = this.refusals === undefined;
      const { rejections, next } = await ask("GET", `/v1/rejections?limit=${REFUSALS_PAGE}${isFirst ? "" : `&after=${this.refusals}`}`);
      this.refusals = next;
      const fresh = isFirst ? [] : rejections.filter(({ via }) => via === "http");
      for (const refusal of fresh) this.dispatch(`${prefix(refusal.device, refusal.name)}/update/rejected`, () => refusal);
    } catch {}
    this.asking = false;
  }

  dispatch(topic, read) {
    const levels = topic.split("/");
    let message;
    for (const [filter, handlers] of this.handlers) {
      if (!matches(filter, levels)) continue;
      message = message === undefined ? read() : message;
      for (const handler of handlers) handler(levels, message);
    }
  }
}

function matches(filter, levels) {
  const wanted = filter.split("/");
  return wanted.length === levels.length && wanted.every((level, i) => level === "+" || level === levels[i]);
}

/** The topics of a shadow. */
export function prefix(device, name) {
  return name ? `shadow/${device}/name/${name}` : `shadow/${device}`;
}

/** Device and shadow name of a topic's levels. */
export function shadowOf(levels) {
  return { device: levels[1], name: levels[2] === "name" ? levels[3] : "" };
}
