// Numbers that a device reports, over time: what its history has of them, and on from there as it changes.

import { useEffect, useRef, useState } from "preact/hooks";

import { clock, field, plural } from "./format.js";
import { ask, shadowPath } from "./http.js";
import { prefix } from "./live.js";
import { leaves, numbers, withPoints } from "./state.js";

const PAGES_MAX = 8;
const POINTS_MAX = 1_000;
/** More are a line alone. */
const DOTS_MAX = 80;
const [WIDTH, HEIGHT, MARGIN] = [320, 96, 6];

export function Charts({ device, name, shadow, live }) {
  const [series, problem] = useSeries(device, name, shadow, live);
  const drawn = [...series].map(([path, points]) => ({ path, points, times: spread(points) }));
  // The same for all, so that they can be compared.
  const from = Math.min(...drawn.map(({ times }) => times[0]));
  const to = Math.max(shadow.timestamp, ...drawn.map(({ times }) => times.at(-1)));
  return (
    <div class="charts">
      {problem && <p class="problem" role="alert">{problem}</p>}
      {drawn.length === 0 && !problem && <p class="card empty">This device reports no numbers.</p>}
      {drawn.map(({ path, points, times }) => <Chart key={path} title={field(path)} points={points} times={times} from={from} to={to} />)}
    </div>
  );
}

/**
 * The points by path, and the reason if the history cannot be read.
 *
 * Every accepted update adds its own, however many come between two renders. The service drops events that newer ones
 * supersede for a page that is slow: a document beyond the versions heard has the history read again, back to them.
 */
function useSeries(device, name, shadow, live) {
  const [series, setSeries] = useState(new Map());
  const [problem, setProblem] = useState("");
  /** `heard`: the version up to which nothing is missing; `wanted`: the newest one seen. */
  const progress = useRef({ heard: 0, wanted: 0, reading: false }).current;
  const stop = useRef(new AbortController()).current;
  const add = (points) => setSeries((held) => withPoints(held, points, POINTS_MAX));
  const fill = async () => {
    if (progress.reading) return;
    progress.reading = true;
    while (progress.heard < progress.wanted && !stop.signal.aborted) {
      const { wanted } = progress;
      const { points, newest, error } = await past(shadowPath(device, name), progress.heard, stop.signal).catch((error) => ({ points: new Map(), newest: 0, error }));
      if (stop.signal.aborted) return;
      add(points);
      setProblem(error?.message ?? "");
      progress.heard = Math.max(progress.heard, newest, wanted);
    }
    progress.reading = false;
  };
  useEffect(() => {
    const off = live.on(`${prefix(device, name)}/update/accepted`, (_, message) => {
      if (message === null) return;
      add(numbers(message));
      if (message.version === progress.heard + 1) progress.heard = message.version;
    });
    return () => {
      off();
      stop.abort();
    };
  }, []);
  useEffect(() => {
    add(numbers(shadow));
    progress.wanted = Math.max(progress.wanted, shadow.version);
    fill();
  }, [shadow]);
  return [series, problem];
}

/** The numbers in the history after version `since`, oldest first, by path; and the newest version there is. */
async function past(path, since, signal) {
  const points = new Map();
  let newest = 0;
  let before = "";
  for (let page = 0; page < PAGES_MAX && !signal.aborted; page += 1) {
    const { entries, end } = await ask("GET", `${path}/history?limit=100${before}`);
    newest = Math.max(newest, entries[0]?.version ?? 0);
    for (const { timestamp, version, changes } of entries) {
      if (version <= since) return { points, newest };
      // A change may be of all that is below a path.
      for (const [leaf, value] of changes.flatMap((change) => [...leaves(change.value, change.path)])) {
        if (leaf.startsWith("/reported/") && typeof value === "number") {
          const of = leaf.slice("/reported".length);
          points.set(of, [{ timestamp, version, value }, ...(points.get(of) ?? [])]);
        }
      }
    }
    if (end !== "more") break;
    before = `&before=${entries.at(-1).version}`;
  }
  return { points, newest };
}

function Chart({ title, points, times, from, to }) {
  const [marked, setMarked] = useState(null);
  const values = points.map(({ value }) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (time) => (to === from ? WIDTH / 2 : MARGIN + ((time - from) / (to - from)) * (WIDTH - 2 * MARGIN));
  const y = (value) => (high === low ? HEIGHT / 2 : HEIGHT - MARGIN - ((value - low) / (high - low)) * (HEIGHT - 2 * MARGIN));
  const [xs, ys] = [times.map(x), values.map(y)];
  // A value holds until the next one comes.
  const line = points.map((_, i) => (i === 0 ? `M${xs[i]} ${ys[i]}` : `H${xs[i]}V${ys[i]}`)).join("");
  const dots = points.length <= DOTS_MAX ? points.map((_, i) => `M${xs[i]} ${ys[i]}h0`).join("") : "";
  const point = points[marked] ?? points.at(-1);
  const mark = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * WIDTH;
    setMarked(Math.max(0, xs.findLastIndex((x) => x <= across)));
  };
  return (
    <figure class="card chart">
      <figcaption>
        <b>{title}</b>
        <span>{points[marked] && <small class="muted num">{clock(point.timestamp)}</small>} <b class="num">{number(point.value)}</b></span>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={`${title}: now ${number(values.at(-1))}, lowest ${number(low)}, highest ${number(high)}, ${plural(points.length, "value")}`} onPointerMove={mark} onPointerLeave={() => setMarked(null)}>
        <path class="area" d={`${line}H${x(to)}V${HEIGHT}H${xs[0]}Z`} />
        <path class="line" d={`${line}H${x(to)}`} />
        <path class="dots" d={dots} />
        {points[marked] && <path class="cursor" d={`M${xs[marked]} 0V${HEIGHT}`} />}
      </svg>
      <div class="axis muted num">
        <span>{clock(from)}</span>
        {high > low && <span>{number(low)} … {number(high)}</span>}
        {to > from && <span>{clock(to)}</span>}
      </div>
    </figure>
  );
}

/** When each point was, in seconds. Times are told in whole ones: the points of one second share it, in their order. */
function spread(points) {
  const inSecond = new Map();
  for (const { timestamp } of points) inSecond.set(timestamp, (inSecond.get(timestamp) ?? 0) + 1);
  let index = 0;
  return points.map(({ timestamp }, i) => {
    index = points[i - 1]?.timestamp === timestamp ? index + 1 : 0;
    return timestamp + index / inSecond.get(timestamp);
  });
}

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 3 });
