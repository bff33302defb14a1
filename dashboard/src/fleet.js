// All devices, kept up to date: the list in pages over HTTP, what changes over MQTT.
//
// Events only mark what they changed. Views are told once per animation frame, and an order is made anew when rows came,
// went or changed what it is made by, at most every ORDER_MS.

import { ask } from "./http.js";
import { shadowOf } from "./live.js";

const PAGE = 100;
const ORDER_MS = 400;
const FEED_MAX = 300;
/** New devices that are asked about one by one; where there are more, the list is read again. */
const ASKED_MAX = 20;

export class Fleet {
  constructor() {
    /** By id: `{id, connected, drifts: Map(name → bool), drift, version, timestamp, conflicts}`. Replaced when it changes. */
    this.rows = new Map();
    /** Newest first. */
    this.feed = [];
    this.counts = { accepted: 0, rejected: 0 };
    this.loading = true;
    this.error = null;
    this.revision = 0;
    this.listeners = new Set();
    this.scheduled = false;
    this.sequence = 0;
    /** Whether a device is connected, as MQTT told: before it is in the list, too, and after it was. */
    this.presences = new Map();
    this.loads = 0;
    /** New devices of which MQTT has not told whether they are connected, as none is that never was. */
    this.unknown = new Set();
  }

  /** Reads the list, page by page, and follows what happens. Returns how to stop. */
  follow(live) {
    const stop = new AbortController();
    const offs = [
      live.onResume(() => this.resume(stop.signal)),
      live.on("shadow/+/document", (levels, message) => this.document(levels, message)),
      live.on("shadow/+/name/+/document", (levels, message) => this.document(levels, message)),
      live.on("shadow/+/presence", (levels, message) => this.presence(levels[1], message)),
      ...["shadow/+/update", "shadow/+/name/+/update"].flatMap((update) => [
        live.on(`${update}/accepted`, (levels, message) => this.note("accepted", levels, message)),
        live.on(`${update}/rejected`, (levels, message) => this.note("rejected", levels, message)),
      ]),
    ];
    this.load(stop.signal);
    this.signal = stop.signal;
    return () => {
      stop.abort();
      for (const off of offs) off();
    };
  }

  /** Documents are told again by MQTT, but not which are gone: a row of which nothing is heard and listed is. */
  resume(signal) {
    for (const [id, row] of this.rows) this.rows.set(id, { ...row, drifts: new Map() });
    this.load(signal);
  }

  async load(signal) {
    const load = (this.loads += 1);
    const listed = new Set();
    this.loading = true;
    this.error = null;
    try {
      for (let cursor = ""; cursor !== undefined; ) {
        const page = await ask("GET", `/v1/devices?limit=${PAGE}${cursor && `&cursor=${cursor}`}`);
        if (signal.aborted || load !== this.loads) return;
        for (const { id, connected, drift } of page.devices) {
          listed.add(id);
          this.listed(id, connected, drift);
        }
        cursor = page.next;
      }
      for (const [id, row] of this.rows) if (!listed.has(id) && row.drifts.size === 0) this.remove(id);
    } catch (error) {
      if (load !== this.loads) return;
      this.error = error;
    }
    this.loading = false;
    this.touch();
    this.askAboutNew();
  }

  listed(id, connected, drift) {
    this.unknown.delete(id);
    // What MQTT told is newer than the page.
    const known = this.rows.get(id)?.drifts.size > 0 ? {} : { drift };
    this.change(id, connected === undefined || this.presences.has(id) ? known : { ...known, connected });
  }

  /** Asks whether the new devices are connected, one after the other. */
  async askAboutNew() {
    // What is being read tells of most of them.
    if (this.asking || this.loading) return;
    this.asking = true;
    while (this.unknown.size > 0 && !this.signal.aborted) {
      if (this.unknown.size > ASKED_MAX) {
        this.unknown.clear();
        await this.load(this.signal);
        continue;
      }
      const [id] = this.unknown;
      this.unknown.delete(id);
      if (this.presences.has(id)) continue;
      // The first one with an id as its prefix is the one with that id, if it is there.
      const { devices } = await ask("GET", `/v1/devices?limit=1&prefix=${id}`).catch(() => ({ devices: [] }));
      if (devices[0]?.id === id && this.rows.has(id)) this.listed(id, devices[0].connected, devices[0].drift);
    }
    this.asking = false;
  }

  document(levels, message) {
    const { device, name } = shadowOf(levels);
    const row = this.rows.get(device);
    const drifts = new Map(row?.drifts);
    if (message === null) {
      drifts.delete(name);
      if (drifts.size === 0 && row) return this.remove(device);
    } else {
      drifts.set(name, message.state?.delta !== undefined);
    }
    const drift = [...drifts.values()].includes(true);
    const newest = message && message.timestamp >= (row?.timestamp ?? 0);
    const stamp = newest ? { timestamp: message.timestamp, version: message.version } : {};
    this.change(device, { drifts, drift, ...stamp });
    if (!row && !this.presences.has(device)) {
      this.unknown.add(device);
      this.askAboutNew();
    }
  }

  presence(device, message) {
    if (message === null) return void this.presences.delete(device);
    this.presences.set(device, message.connected);
    if (this.rows.has(device)) this.change(device, { connected: message.connected });
    else this.touch();
  }

  /** Whether `device` is connected; `undefined`: not known. The one answer for all views. */
  connected(device) {
    return this.rows.get(device)?.connected ?? this.presences.get(device);
  }

  note(kind, levels, message) {
    if (message === null) return;
    const { device, name } = shadowOf(levels);
    this.counts = { ...this.counts, [kind]: this.counts[kind] + 1 };
    this.sequence += 1;
    this.feed.unshift({ key: this.sequence, kind, device, name, message });
    if (this.feed.length > FEED_MAX) this.feed.length = FEED_MAX;
    const isConflict = kind === "rejected" && message.code === 409;
    if (isConflict && this.rows.has(device)) {
      this.change(device, { conflicts: this.rows.get(device).conflicts + 1 });
    }
    this.touch();
  }

  change(id, changes) {
    const row = this.rows.get(id);
    const fresh = { id, connected: this.presences.get(id), drifts: new Map(), drift: false, version: 0, timestamp: 0, conflicts: 0 };
    this.rows.set(id, { ...(row ?? fresh), ...changes });
    this.touch();
  }

  remove(id) {
    this.rows.delete(id);
    this.touch();
  }

  touch() {
    this.revision += 1;
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      for (const listener of this.listeners) listener();
    });
  }

  /** Has `listener` told, once per frame, that something changed. */
  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** The ids that a view shows, in its order; the same array while it need not be another. */
  order({ search, connected, drift, conflicts, sort, descending }) {
    const key = JSON.stringify([search, connected, drift, conflicts, sort, descending]);
    const now = performance.now();
    if (this.made?.key === key && (this.made.revision === this.revision || now - this.made.at < ORDER_MS)) {
      if (this.made.revision !== this.revision) this.later();
      return this.made.ids;
    }
    const needle = search.trim().toLowerCase();
    const wanted = (row) =>
      (needle === "" || row.id.toLowerCase().includes(needle)) &&
      (connected === "any" || (connected === "yes" ? row.connected === true : row.connected === false)) &&
      (drift === "any" || row.drift === (drift === "yes")) &&
      (!conflicts || row.conflicts > 0);
    const rows = [...this.rows.values()].filter(wanted);
    rows.sort((a, b) => compare(a[sort], b[sort]) || compare(a.id, b.id));
    if (descending) rows.reverse();
    this.made = { key, at: now, revision: this.revision, ids: rows.map((row) => row.id) };
    return this.made.ids;
  }

  /** An order that was not made anew is made soon. */
  later() {
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      for (const listener of this.listeners) listener();
    }, ORDER_MS);
  }

  totals() {
    const totals = { devices: this.rows.size, connected: 0, known: 0, drift: 0, conflicts: 0 };
    for (const row of this.rows.values()) {
      if (row.connected !== undefined) totals.known += 1;
      if (row.connected) totals.connected += 1;
      if (row.drift) totals.drift += 1;
      totals.conflicts += row.conflicts;
    }
    return totals;
  }
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === undefined) return -1;
  if (b === undefined) return 1;
  return a < b ? -1 : 1;
}
