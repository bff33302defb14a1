// Views that are drawn anew when the fleet tells that something changed: at most once per frame.

import { useEffect, useState } from "preact/hooks";

export function useFleet(fleet, paused = false) {
  const [, draw] = useState(0);
  useEffect(() => (paused ? undefined : fleet.subscribe(() => draw((count) => count + 1))), [paused]);
}

/** The seconds since 1970, told again every `ms`. */
export function useNow(ms) {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1000), ms);
    return () => clearInterval(timer);
  }, []);
  return now;
}
