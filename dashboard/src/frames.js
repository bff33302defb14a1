// Views that are drawn anew when something changed, or as time passes.

import { useEffect, useState } from "preact/hooks";

/** Draws the view when `source` changed, unless `paused`. */
export function useChanges(source, paused = false) {
  const draw = useDraw();
  useEffect(() => (paused ? undefined : source.onChange(draw)), [paused]);
}

/** Returns a function that draws the view again. */
export function useDraw() {
  const [, draw] = useState(0);
  return () => draw((count) => count + 1);
}

/** The seconds since 1970, anew every `ms`. */
export function useNow(ms) {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1000), ms);
    return () => clearInterval(timer);
  }, []);
  return now;
}
