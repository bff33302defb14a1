// Lists of the service in pages, read as far as they are looked at.

import { useEffect, useRef, useState } from "preact/hooks";

import { ask } from "./http.js";

/**
 * Returns the entries of the list at `path` (with its parameters) under `key`, whether they are being read, the problem if they cannot
 * be, how to read more (`undefined`: no more), how to read again what was read, and the nodes of a cluster that have not answered.
 */
export function useList(path, key) {
  const [read, setRead] = useState({ entries: [], next: undefined, loading: true, problem: null, unreachable: [] });
  const turn = useRef(0);
  const load = async (upTo, from) => {
    const mine = (turn.current += 1);
    setRead((held) => ({ ...held, loading: true }));
    try {
      const entries = from ? [...read.entries] : [];
      let cursor = from;
      const unreachable = new Set(from && read.unreachable);
      do {
        const page = await ask("GET", `${path}${path.includes("?") ? "&" : "?"}limit=100${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
        if (mine !== turn.current) return;
        entries.push(...page[key]);
        page.unreachable?.forEach((node) => unreachable.add(node));
        cursor = page.next;
        // A filtered page may be short, or empty, and not the last.
      } while (cursor !== undefined && entries.length < upTo);
      setRead({ entries, next: cursor, loading: false, problem: null, unreachable: [...unreachable] });
    } catch (problem) {
      if (mine === turn.current) setRead((held) => ({ ...held, loading: false, problem }));
    }
  };
  useEffect(() => {
    load(1);
    return () => (turn.current += 1);
  }, [path]);
  return { ...read, more: read.next && (() => load(read.entries.length + 1, read.next)), again: () => load(read.entries.length) };
}
