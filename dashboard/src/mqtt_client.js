// A connection of one's own for trying out topics, beside the one that the page itself uses. It goes on while one looks elsewhere.

import mqtt from "mqtt";

import { Changes } from "./changes.js";
import { webSocketUrl } from "./command.jsx";
import { CLIENT } from "./http.js";
import { briefText } from "./payload.js";

const MESSAGES_MAX = 500;

export class TestClient extends Changes {
  constructor() {
    super();
    this.options = { clientId: `${CLIENT}-test`, version: 5, clean: true, keepalive: 30, username: "", password: "" };
    /** "off", "connecting" or "on". */
    this.status = "off";
    this.problem = "";
    /** By filter: the granted QoS, or the reason why there is none. */
    this.filters = new Map();
    /** Newest first: `{key, at, direction, topic, text, qos, retain, note}`. Payloads may be large, so only their texts are kept, which are not.. */
    this.messages = [];
    this.sequence = 0;
  }

  connect(options) {
    this.disconnect();
    this.options = options;
    this.set("connecting");
    const { clientId, version, clean, keepalive, username, password } = options;
    const client = (this.client = mqtt.connect(webSocketUrl(), {
      protocolVersion: Number(version),
      clientId,
      clean,
      keepalive: Number(keepalive),
      ...(Number(version) === 5 && !clean && { properties: { sessionExpiryInterval: 3600 } }),
      ...(username && { username, password }),
      reconnectPeriod: 0,
      resubscribe: false,
      timerVariant: "native",
    }));
    const own = (act) => (...values) => client === this.client && act(...values);
    client.on("connect", own(({ sessionPresent }) => {
      if (!sessionPresent) this.filters.clear();
      this.set("on");
      this.note(`connected as ${clientId}${sessionPresent ? ", to the session that was there" : ""}`);
    }));
    client.on("message", own((topic, payload, { qos, retain, dup }) => this.add({ direction: "in", topic, text: briefText(payload), qos, retain, note: dup ? "sent again" : "" })));
    client.on("disconnect", own(({ reasonCode, properties }) => (this.problem = `The service ended the connection: ${properties?.reasonString ?? `reason ${reasonCode}`}`)));
    client.on("error", own((error) => (this.problem = error.message)));
    client.on("close", own(() => {
      if (this.status === "on") this.note("disconnected");
      client.end(true);
      this.client = undefined;
      this.set("off", this.problem || (this.status === "connecting" ? "The connection could not be made." : ""));
    }));
  }

  disconnect() {
    const { client } = this;
    if (!client) return;
    this.client = undefined;
    client.end();
    if (this.status === "on") this.note("disconnected");
    this.set("off");
  }

  async subscribe(filter, qos) {
    try {
      const [granted] = await this.client.subscribeAsync(filter, { qos });
      this.filters.set(filter, granted ? `QoS ${granted.qos}` : "granted before");
      this.problem = "";
    } catch (error) {
      this.problem = `Not subscribed to ${filter}: ${error.message}`;
    }
    this.touch();
  }

  async unsubscribe(filter) {
    await this.client?.unsubscribeAsync(filter).catch(() => {});
    this.filters.delete(filter);
    this.touch();
  }

  /** Resolves when the service has acknowledged, for QoS 0 when it was sent. */
  async publish(topic, payload, qos, retain) {
    const entry = this.add({ direction: "out", topic, text: briefText(new TextEncoder().encode(payload)), qos, retain, note: qos > 0 ? "waiting" : "sent" });
    try {
      await this.client.publishAsync(topic, payload, { qos, retain });
      this.change(entry, qos > 0 ? "acknowledged" : "sent");
    } catch (error) {
      this.change(entry, error.message);
    }
  }

  clear() {
    this.messages = [];
    this.touch();
  }

  add(message) {
    this.sequence += 1;
    const entry = { ...message, key: this.sequence, at: Date.now() / 1000 };
    this.messages = [entry, ...this.messages].slice(0, MESSAGES_MAX);
    this.touch();
    return entry.key;
  }

  change(key, note) {
    this.messages = this.messages.map((entry) => (entry.key === key ? { ...entry, note } : entry));
    this.touch();
  }

  note(text) {
    this.add({ direction: "note", topic: "", text: "", note: text });
  }

  set(status, problem = "") {
    Object.assign(this, { status, problem });
    if (status === "off") this.filters.clear();
    this.touch();
  }
}
