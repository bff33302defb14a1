// States as lists of leaves, edits as lists of changed paths. Pure.
//
// A leaf is a scalar, an array or an empty object, as in the protocol; paths are JSON Pointers.

/** Whether it is an object that has members of its own. */
export function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

const escape = (key) => key.replaceAll("~", "~0").replaceAll("/", "~1");
const unescape = (key) => key.replaceAll("~1", "/").replaceAll("~0", "~");

/** The keys that a pointer names, from the outside in. */
export function keysOf(pointer) {
  return pointer.split("/").slice(1).map(unescape);
}

/** The leaves of `value`, by pointer, in the order of the document. */
export function leaves(value, at = "", found = new Map()) {
  if (!isObject(value)) {
    if (value !== undefined) found.set(at, value);
    return found;
  }
  const keys = Object.keys(value);
  if (keys.length === 0 && at !== "") found.set(at, value);
  for (const key of keys) leaves(value[key], `${at}/${escape(key)}`, found);
  return found;
}

/** What is at `pointer`; `undefined`: nothing. */
export function at(value, pointer) {
  for (const key of keysOf(pointer)) {
    if (!isObject(value) || !Object.hasOwn(value, key)) return undefined;
    value = value[key];
  }
  return value;
}

/** Whether two values are the same, whatever the order of keys. */
export function equal(a, b) {
  if (Array.isArray(a)) return Array.isArray(b) && a.length === b.length && a.every((item, i) => equal(item, b[i]));
  if (!isObject(a)) return a === b;
  if (!isObject(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && equal(a[key], b[key]));
}

/**
 * The fields of `desired` and `reported`. One differs if it is in the delta. It is hidden if it differs and the delta lacks
 * it: the delta has only paths that the reader may read in both.
 */
export function fields({ desired = {}, reported = {}, delta = {} }) {
  const [wanted, reportedLeaves] = [leaves(desired), leaves(reported)];
  const paths = new Set([...wanted.keys(), ...reportedLeaves.keys()]);
  return [...paths].map((path) => {
    const differs = wanted.has(path) && at(delta, path) !== undefined;
    const hidden = wanted.has(path) && !differs && !equal(wanted.get(path), at(reported, path));
    return { path, differs, hidden };
  });
}

/** The edits that make `after` of `before`: `{path, value}`, where a `value` of `undefined` removes. */
export function edits(before, after, path = "", found = []) {
  if (isObject(before) && isObject(after)) {
    for (const key of Object.keys(before)) {
      edits(before[key], Object.hasOwn(after, key) ? after[key] : undefined, `${path}/${escape(key)}`, found);
    }
    for (const key of Object.keys(after)) {
      if (!Object.hasOwn(before, key)) added(after[key], `${path}/${escape(key)}`, found);
    }
  } else if (!equal(before, after)) {
    found.push({ path, value: after });
  }
  return found;
}

function added(value, path, found) {
  if (!isObject(value) || Object.keys(value).length === 0) return void found.push({ path, value });
  for (const key of Object.keys(value)) added(value[key], `${path}/${escape(key)}`, found);
}

/** `value` without the members that are `null`: a merge patch removes them. */
export function withoutNulls(value) {
  if (!isObject(value)) return value;
  const kept = {};
  for (const [key, inner] of Object.entries(value)) if (inner !== null) define(kept, key, withoutNulls(inner));
  return kept;
}

/** The merge patch (RFC 7396) that makes these edits. */
export function patchOf(list) {
  const patch = {};
  for (const { path, value } of list) {
    const keys = keysOf(path);
    let into = patch;
    for (const key of keys.slice(0, -1)) into = own(into, key, {});
    define(into, keys.at(-1), value === undefined ? null : value);
  }
  return patch;
}

/** Keys come from documents, so `__proto__` must be one like any other. */
function define(object, key, value) {
  Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
  return value;
}

function own(object, key, otherwise) {
  return Object.hasOwn(object, key) ? object[key] : define(object, key, otherwise);
}

/** Whether one path is the other, above it or below it. */
export function touches(a, b) {
  return a === b || a.startsWith(`${b}/`) || b.startsWith(`${a}/`);
}

/**
 * The edits of a refused set that collide with a change to something else: `{path, value, base, theirs, …}`.
 *
 * `conflicts` is what the refusal lists, with paths into `state`, of which the edits are of `section`; where it was cut short, `seen`, the state that the edits were
 * sent for, and `theirs` are compared. `base` is the state that was loaded.
 */
export function collisions(list, { conflicts, truncated, section = "desired" }, { base, seen, theirs }) {
  const rows = [];
  for (const edit of list) {
    const path = `/${section}${edit.path}`;
    const met = conflicts.find((conflict) => touches(conflict.path, path));
    const [was, is] = [at(seen, edit.path), at(theirs, edit.path)];
    if ((met || (truncated && !equal(was, is))) && !equal(edit.value, is)) {
      rows.push({ ...edit, base: at(base, edit.path), theirs: is, by: met?.by, version: met?.version, timestamp: met?.timestamp });
    }
  }
  return rows;
}

/**
 * The parts of a merge after a refusal: the edits to ask about, those saved without asking, and what others changed that stays.
 * No path is in two of them, also where an earlier round has decided against a change of others.
 */
export function sides(list, refusal, states) {
  const rows = collisions(list, refusal, states);
  const clean = list.filter((edit) => !rows.some((row) => row.path === edit.path));
  const others = edits(states.base, states.theirs).filter((other) => !list.some((edit) => touches(edit.path, other.path)));
  return { rows, clean, others };
}

/** A copy of `series` with `points` (by path) put in, in the order of versions and each once; the newest `max` of a path stay. */
export function withPoints(series, points, max) {
  const all = new Map(series);
  for (const [path, added] of points) {
    const held = all.get(path) ?? [];
    const known = new Set(held.map(({ version }) => version));
    const fresh = added.filter(({ version }) => !known.has(version));
    if (fresh.length === 0) continue;
    all.set(path, [...held, ...fresh].sort((a, b) => a.version - b.version).slice(-max));
  }
  return all;
}

/** The numbers below a section as points by path, each of the version that set it. `message` is a document or an update. */
export function numbers({ state, metadata, version, timestamp }, section = "reported") {
  const found = new Map();
  for (const [path, value] of leaves(state?.[section] ?? {})) {
    if (typeof value !== "number") continue;
    const stamp = at(metadata?.[section], path) ?? { version, timestamp };
    found.set(path, [{ timestamp: stamp.timestamp, version: stamp.version, value }]);
  }
  return found;
}

/** The order of the documents of one shadow, which come over HTTP and over MQTT: one is older than what is shown if its version is lower. */
export class Newest {
  version = 0;

  /** Returns true if `document`, which is `null` where there is no shadow, is to be shown. */
  accepts(document) {
    if (document && document.version < this.version) return false;
    this.version = document?.version ?? this.version;
    return true;
  }

  /** Has the next document accepted whatever its version, since the versions may have gone back. */
  forget() {
    this.version = 0;
  }
}
