// The devices of a query, kept up to date: which ones by a live query, what is in the rows in sight by MQTT.
//
// The first page is read by a search and is there at once, however large the fleet. Then there are two ways:
//
// - In the order of the ids, with at most LIVE_MAX devices, the live query delivers all ids, and rows are read as they come
//   into sight.
// - Otherwise further pages are read as one scrolls down to them. Those that were read are read again from time to time, and the
//   live query, where the service takes it, counts.

import { Changes } from "./changes.js";
import { ask, Problem } from "./http.js";
import { shadowOf } from "./live.js";
import { follow, waited } from "./sse.js";

const PAGE = 100;
/** Devices of a live query, as the service limits them. */
const LIVE_MAX = 10_000;
/** Pages that are read again when something changed. */
const AGAIN_PAGES_MAX = 3;
/** Pause between two counts or readings, at least, and as a multiple of the time that one takes. */
const PAUSE_MS = 3000;
const PAUSE_FACTOR = 20;
const WATCH_MS = 80;

export class Listing extends Changes {
  constructor(live) {
    super();
    this.live = live;
    /** By id: `{id, read, docs, presence}`. A row is replaced when it changes. */
    this.rows = new Map();
    this.ids = [];
    this.total = undefined;
    this.loading = true;
    this.problem = null;
    this.watched = new Map();
  }

  /**
   * Shows the devices of a query: `{q, sort, fields}`. Of another one than before, what was there stays until the answer comes; the
   * same goes on where it was. Returns how to rest.
   */
  show(wanted, listener) {
    this.rest();
    const stop = (this.stop = new AbortController());
    const key = JSON.stringify(wanted);
    this.wanted = wanted;
    const offChange = this.onChange(listener);
    const offResume = this.live.onResume(() => this.again());
    const onVisible = () => this.followLive();
    document.addEventListener("visibilitychange", onVisible);
    stop.signal.addEventListener("abort", () => {
      offChange();
      offResume();
      document.removeEventListener("visibilitychange", onVisible);
    });
    if (key === this.key && !this.problem && !this.loading) this.goOn(stop.signal, this.again());
    else this.begin(key, stop.signal);
    return () => this.rest();
  }

  rest() {
    this.stop?.abort();
    this.streaming?.abort();
    clearTimeout(this.watching);
    this.watch([]);
  }

  async begin(key, signal) {
    Object.assign(this, { key, members: null, next: undefined, loading: true, reading: false, asked: new Set(), position: { id: undefined }, isLive: false, mayBeLive: true });
    this.touch();
    const began = performance.now();
    try {
      const page = await this.page(undefined, signal);
      if (signal.aborted) return;
      this.rows.clear();
      this.ids = page.devices.map(({ id }) => this.take(id, page));
      Object.assign(this, { next: page.next, total: page.next ? page.total : this.ids.length, loading: false, problem: null });
      this.touch();
      await this.goOn(signal, this.next && this.total === undefined ? this.count(signal) : undefined);
      this.took = performance.now() - began;
    } catch (error) {
      if (signal.aborted) return;
      Object.assign(this, { problem: error, loading: false });
      this.touch();
    }
  }

  async goOn(signal, first) {
    await first;
    if (signal.aborted) return;
    this.followLive();
    this.keepFresh(signal);
  }

  get isNatural() {
    return this.wanted.sort === "device" || this.wanted.sort === "-device";
  }

  /** True while the live query delivers which devices there are. */
  get isWhole() {
    return this.isLive && this.isNatural;
  }

  query(parameters) {
    const { q, fields } = this.wanted;
    return new URLSearchParams({ ...(q && { q }), ...(fields.length > 0 && { fields: fields.join(",") }), limit: PAGE, ...parameters });
  }

  /** Reads a page; one may be empty and not the last. */
  async page(cursor, signal, sort = this.wanted.sort) {
    const isNatural = sort === "device";
    for (;;) {
      const page = await ask("GET", `/v1/search?${this.query({ ...(!isNatural && { sort }), ...(!isNatural && !cursor && { total: "true" }), ...(cursor && { cursor }) })}`);
      if (page.devices.length > 0 || page.next === undefined || signal.aborted) return page;
      cursor = page.next;
    }
  }

  take(id, page) {
    const read = page.devices.find((device) => device.id === id);
    this.rows.set(id, { docs: new Map(), ...this.rows.get(id), id, read });
    return id;
  }

  async count(signal) {
    const { q } = this.wanted;
    const { devices } = await ask("GET", `/v1/aggregate?${new URLSearchParams(q && { q })}`);
    if (signal.aborted || this.isLive) return;
    this.total = devices;
    this.touch();
  }

  /** Follows the live query while the page is looked at: a browser has few connections to one host. */
  async followLive() {
    this.streaming?.abort();
    if (document.hidden || this.loading || this.problem || !this.mayBeLive || this.total > LIVE_MAX || this.stop.signal.aborted) return;
    const streaming = (this.streaming = new AbortController());
    const path = `/v1/search/live?${new URLSearchParams(this.wanted.q && { q: this.wanted.q })}`;
    let incoming = null;
    const onEvent = (name, data) => {
      if (streaming.signal.aborted) return;
      if (name === "start") incoming = new Set();
      const into = incoming ?? (this.members ??= new Set());
      if (name === "enter") for (const id of data.devices) into.add(id);
      if (name === "leave") for (const id of data.devices) into.delete(id);
      if (name === "complete" && incoming) [this.members, incoming] = [incoming, null];
      if (incoming === null && name !== "start") this.changed(data.count);
    };
    try {
      await follow(path, onEvent, streaming.signal, this.position);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (streaming.signal.aborted) return;
      // Too many devices, or a condition that time alone makes true.
      Object.assign(this, { isLive: false, mayBeLive: false, members: null });
      if (this.isNatural) await this.again();
    }
  }

  /** Takes what the live query has delivered. */
  changed(total) {
    Object.assign(this, { isLive: true, total, isOld: true });
    if (!this.isNatural) this.ids = this.ids.filter((id) => this.members.has(id));
    for (const id of this.rows.keys()) if (!this.members.has(id)) this.rows.delete(id);
    this.touch();
  }

  /** Returns the ids in their order. */
  order() {
    if (this.isWhole && this.isOld) {
      this.ids = [...this.members].sort();
      if (this.wanted.sort === "-device") this.ids.reverse();
      this.isOld = false;
      this.next = undefined;
    }
    return this.ids;
  }

  /** Counts, and reads again what was read, where the live query does not deliver it. */
  async keepFresh(signal) {
    while (!signal.aborted) {
      await waited(Math.max(PAUSE_MS, PAUSE_FACTOR * (this.took ?? 0)), signal);
      if (signal.aborted || document.hidden || this.isWhole) continue;
      const began = performance.now();
      // In the order of a field, rows change their places.
      if (this.ids.length <= AGAIN_PAGES_MAX * PAGE) await this.again();
      if (!this.isLive && this.isNatural) await this.count(signal).catch(() => {});
      this.took = performance.now() - began;
    }
  }

  /** Reads again as many rows as there are. */
  async again() {
    if (this.isWhole || this.loading || this.reading) return;
    const { signal } = this.stop;
    const found = [];
    this.reading = true;
    try {
      let cursor;
      do {
        const page = await this.page(cursor, signal);
        if (signal.aborted) return;
        found.push(page);
        cursor = page.next;
      } while (cursor !== undefined && PAGE * found.length < this.ids.length);
      if (this.isWhole) return;
      this.ids = found.flatMap((page) => page.devices.map(({ id }) => this.take(id, page)));
      const kept = new Set(this.ids);
      for (const id of this.rows.keys()) if (!kept.has(id)) this.rows.delete(id);
      Object.assign(this, { next: cursor, problem: null });
      if (!this.isLive) this.total = cursor === undefined ? this.ids.length : found[0].total ?? this.total;
    } catch (error) {
      if (!signal.aborted) this.problem = error;
    } finally {
      this.reading = false;
      this.touch();
    }
  }

  /** Reads what is missing of the rows from `first` to before `last`, and follows them. */
  see(first, last) {
    const ids = this.order().slice(first, last);
    clearTimeout(this.watching);
    this.watching = setTimeout(() => this.watch(ids), WATCH_MS);
    if (this.isWhole) this.readMissing(ids);
    else if (this.next && last >= this.ids.length) this.more();
  }

  async more() {
    if (this.reading || this.loading) return;
    const { signal } = this.stop;
    this.reading = true;
    try {
      const page = await this.page(this.next, signal);
      if (signal.aborted) return;
      const known = new Set(this.ids);
      this.ids = [...this.ids, ...page.devices.map(({ id }) => this.take(id, page)).filter((id) => !known.has(id))];
      this.next = page.next;
    } catch (error) {
      if (!signal.aborted) this.problem = error;
    } finally {
      this.reading = false;
      this.touch();
    }
  }

  /** Reads the page that begins with the first of `ids` of which nothing is known; each is asked for once. */
  async readMissing(ids) {
    const missing = ids.filter((id) => !this.rows.get(id)?.read && !this.asked.has(id)).sort();
    if (missing.length === 0) return;
    for (const id of missing) this.asked.add(id);
    const { signal } = this.stop;
    const all = this.wanted.sort === "device" ? this.ids : [...this.ids].reverse();
    const before = all[all.indexOf(missing[0]) - 1];
    try {
      const page = await this.page(before, signal, "device");
      if (signal.aborted) return;
      for (const { id } of page.devices) if (this.members?.has(id)) this.take(id, page);
    } catch {
      // MQTT delivers what is there.
    }
    this.touch();
  }

  /** Follows the documents and the presence of these devices, and of no others. */
  watch(ids) {
    const wanted = new Set(ids);
    for (const [id, off] of this.watched) {
      if (wanted.has(id)) continue;
      off();
      this.watched.delete(id);
    }
    for (const id of wanted) {
      if (this.watched.has(id)) continue;
      const document = (levels, message) => this.document(levels, message);
      const offs = [
        this.live.on(`shadow/${id}/document`, document),
        this.live.on(`shadow/${id}/name/+/document`, document),
        this.live.on(`shadow/${id}/presence`, (levels, message) => this.change(id, { presence: message ?? undefined })),
      ];
      this.watched.set(id, () => offs.forEach((off) => off()));
    }
  }

  document(levels, message) {
    const { device, name } = shadowOf(levels);
    const row = this.rows.get(device);
    const docs = new Map(row?.docs);
    if (message !== null) docs.set(name, message);
    const isGone = message === null && docs.delete(name);
    this.change(device, isGone && row.read ? { docs, read: { ...row.read, shadows: row.read.shadows - 1 } } : { docs });
  }

  change(id, changes) {
    this.rows.set(id, { docs: new Map(), id, ...this.rows.get(id), ...changes });
    this.touch();
  }
}
