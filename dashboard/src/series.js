// The numbers of a shadow over time: what its history has of them, and on from there as it changes.

import { useEffect, useRef, useState } from "preact/hooks";

import { ask, shadowPath } from "./http.js";
import { prefix } from "./live.js";
import { leaves, numbers, withPoints } from "./state.js";

const SECTIONS = ["reported", "desired"];
/** Pages that are read at a time. */
const PAGES_MAX = 8;
const POINTS_MAX = 5_000;

/**
 * Returns the points by section and path, the reason if the history cannot be read, the time back to which it was read, and how to
 * read older ones: `undefined` if there are none.
 *
 * Every accepted update adds its own, however many come between two renders. The service drops events that newer ones
 * supersede for a page that is slow: a document beyond the versions heard has the history read again, back to them.
 */
export function useSeries(device, name, shadow, live) {
  const [series, setSeries] = useState({ reported: new Map(), desired: new Map() });
  const [problem, setProblem] = useState("");
  const [oldest, setOldest] = useState(undefined);
  /** `heard`: the version up to which nothing is missing; `wanted`: the newest one seen. */
  const progress = useRef({ heard: 0, wanted: 0, reading: false }).current;
  const stop = useRef(new AbortController()).current;
  const path = shadowPath(device, name);
  const add = (points) => setSeries((held) => Object.fromEntries(SECTIONS.map((section) => [section, withPoints(held[section], points[section], POINTS_MAX)])));
  const read = async (since, before) => {
    const found = await past(path, since, before, stop.signal).catch((error) => ({ points: none(), newest: 0, error }));
    if (stop.signal.aborted) return 0;
    add(found.points);
    setProblem(found.error?.message ?? "");
    if (found.oldest && (before !== undefined || since === 0)) setOldest(found.oldest);
    return found.newest;
  };
  const fill = async () => {
    if (progress.reading) return;
    progress.reading = true;
    while (progress.heard < progress.wanted && !stop.signal.aborted) {
      const { wanted } = progress;
      progress.heard = Math.max(progress.heard, await read(progress.heard, undefined), wanted);
    }
    progress.reading = false;
  };
  useEffect(() => {
    const off = live.on(`${prefix(device, name)}/update/accepted`, (_, message) => {
      if (message === null) return;
      add(ofMessage(message));
      if (message.version === progress.heard + 1) progress.heard = message.version;
    });
    return () => {
      off();
      stop.abort();
    };
  }, []);
  useEffect(() => {
    add(ofMessage(shadow));
    progress.wanted = Math.max(progress.wanted, shadow.version);
    fill();
  }, [shadow]);
  return { series, problem, since: oldest?.timestamp, older: oldest?.more ? () => read(0, oldest.version) : undefined };
}

const none = () => ({ reported: new Map(), desired: new Map() });

const ofMessage = (message) => Object.fromEntries(SECTIONS.map((section) => [section, numbers(message, section)]));

/** The numbers in the history before one version and after another, oldest first; the newest version, and the oldest that was read. */
async function past(path, since, before, signal) {
  const points = none();
  let [newest, oldest] = [0, undefined];
  for (let page = 0; page < PAGES_MAX && !signal.aborted; page += 1) {
    const { entries, end } = await ask("GET", `${path}/history?limit=100${before ? `&before=${before}` : ""}`);
    newest = Math.max(newest, entries[0]?.version ?? 0);
    for (const entry of entries) {
      if (entry.version <= since) return { points, newest, oldest };
      addEntry(points, entry);
      oldest = { timestamp: entry.timestamp, version: entry.version, more: end === "more" || entry !== entries.at(-1) };
    }
    if (end !== "more") break;
    before = entries.at(-1)?.version ?? before;
  }
  return { points, newest, oldest };
}

/** A change may be of all that is below a path. */
function addEntry(points, { timestamp, version, changes }) {
  for (const [leaf, value] of changes.flatMap((change) => [...leaves(change.value, change.path)])) {
    const section = SECTIONS.find((section) => leaf.startsWith(`/${section}/`));
    if (!section || typeof value !== "number") continue;
    const of = leaf.slice(section.length + 1);
    points[section].set(of, [{ timestamp, version, value }, ...(points[section].get(of) ?? [])]);
  }
}
