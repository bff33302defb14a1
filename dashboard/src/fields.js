// Values of the fields of a device, as a search has them, from the documents that MQTT delivers. Pure.

import { fieldKeys } from "./query.js";
import { isObject } from "./state.js";

const SECTIONS = ["reported", "desired", "tags", "delta"];

/** The columns of the list when none are chosen. `conflicts` is of this page, the others are fields. */
export const COLUMNS = ["connected", "drift", "conflicts", "version", "updated"];

const TITLES = { device: "Device", connected: "Connection", drift: "State", conflicts: "Conflicts", version: "Version", updated: "Last change", seen: "Last seen" };

/** Returns the title of a column. */
export const title = (column) => TITLES[column] ?? column;

/** Returns true for a field whose value is a time in seconds. */
export const isTime = (name) => /(^|\.)updated$/.test(name) ? !/(^|\.)(reported|desired|tags|delta)\./.test(name) : name === "seen";

/**
 * Returns the value of a field of `row`: `{id, read, docs, presence}`, where `read` is what a search returned, `docs` the documents
 * by shadow name and `presence` the message. What MQTT delivered is newer than what was read.
 */
export function valueOf(row, name) {
  const read = row.read?.fields?.[name];
  switch (name) {
    case "device":
    case "thingName":
      return row.id;
    case "connected":
    case "connectivity.connected":
      return row.presence?.connected ?? read ?? row.read?.connected;
    case "seen":
      return row.presence?.lastSeen ?? read;
    case "drift":
      // One document more may be on its way.
      return row.docs.size > 0 && row.docs.size >= (row.read?.shadows ?? 0) ? [...row.docs.values()].some((document) => document.state?.delta !== undefined) : row.read?.drift;
    case "updated":
      return row.docs.size > 0 ? Math.max(read ?? 0, ...[...row.docs.values()].map(({ timestamp }) => timestamp)) : read;
    default: {
      const [shadow, keys] = shadowField(name);
      const document = shadow === undefined ? undefined : row.docs.get(shadow);
      return document ? inDocument(document, keys) : read;
    }
  }
}

/** Returns the name of the shadow that a field is of, and its keys below the shadow. */
function shadowField(name) {
  const keys = fieldKeys(name);
  if (keys[0] === "shadow" && keys[1] === "name") return [keys[2], keys.slice(3)];
  if (keys[0] === "shadow") return ["", keys.slice(1)];
  if (keys[0] === "attributes") return ["", ["tags", ...keys.slice(1)]];
  if (keys[0] === "thingTypeName" || keys[0] === "thingGroupNames") return ["", ["tags", ...keys]];
  return ["version", ...SECTIONS].includes(keys[0]) ? ["", keys] : [undefined, keys];
}

function inDocument({ state, version, timestamp }, [first, ...keys]) {
  if (first === undefined) return true;
  if (first === "hasDelta") return state?.delta !== undefined;
  if (first === "version") return version;
  if (first === "updated") return timestamp;
  return below(state?.[first], keys);
}

/** Goes on through the elements of an array: the first with a value. */
function below(value, keys) {
  if (keys.length === 0) return value;
  if (Array.isArray(value)) return value.map((element) => below(element, keys)).find((found) => found !== undefined);
  return isObject(value) && Object.hasOwn(value, keys[0]) ? below(value[keys[0]], keys.slice(1)) : undefined;
}

/** Returns the paths of the values in `states`, by how many of these have them, as keys from the section on. */
export function knownPaths(states) {
  const counts = new Map();
  const visit = (value, keys, seen) => {
    if (isObject(value) && Object.keys(value).length > 0) {
      for (const key of Object.keys(value)) visit(value[key], [...keys, key], seen);
    } else {
      seen.set(JSON.stringify(keys), keys);
    }
  };
  for (const state of states) {
    const seen = new Map();
    for (const section of ["reported", "desired", "tags"]) if (isObject(state[section])) visit(state[section], [section], seen);
    for (const [id, keys] of seen) counts.set(id, { keys, count: (counts.get(id)?.count ?? 0) + 1 });
  }
  return [...counts.values()].filter(({ keys }) => keys.length > 1).sort((a, b) => b.count - a.count);
}
