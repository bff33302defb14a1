// The numbers of all devices, of those that are connected and of those that drift, counted again from time to time.

import { useEffect, useState } from "preact/hooks";

import { ask } from "./http.js";
import { waited } from "./sse.js";

const PAUSE_MS = 2000;
/** A count is at most this part of the time. */
const PAUSE_FACTOR = 20;

/** Returns `{devices, drift, connected, known}`, where `known` are those whose presence the reader may see; `null` before the first. */
export function useTotals() {
  const [totals, setTotals] = useState(null);
  useEffect(() => {
    const stop = new AbortController();
    count(stop.signal, (next) => setTotals((held) => (JSON.stringify(held) === JSON.stringify(next) ? held : next)));
    return () => stop.abort();
  }, []);
  return totals;
}

async function count(signal, onTotals) {
  while (!signal.aborted) {
    const began = performance.now();
    if (!document.hidden) {
      try {
        const [drift, connected] = await Promise.all(["drift", "connected"].map((field) => ask("GET", `/v1/aggregate?type=terms&field=${field}`)));
        if (signal.aborted) return;
        const withTrue = ({ terms }) => terms.find(({ value }) => value === true)?.count ?? 0;
        onTotals({ devices: drift.devices, drift: withTrue(drift), connected: withTrue(connected), known: connected.withValue });
      } catch {
        // The list says what is wrong.
      }
    }
    await waited(Math.max(PAUSE_MS, PAUSE_FACTOR * (performance.now() - began)), signal);
  }
}
