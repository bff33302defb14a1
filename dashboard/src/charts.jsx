// Numbers that a device reports, over time: what its history has of them, and on from there as it changes.

import { useEffect, useState } from "preact/hooks";

import { clock, count, field } from "./format.js";
import { ask, shadowPath } from "./http.js";
import { leaves } from "./state.js";

const PAGES_MAX = 8;
const POINTS_MAX = 1_000;
const [WIDTH, HEIGHT] = [320, 96];

export function Charts({ device, name, shadow }) {
  const [series, setSeries] = useState(new Map());
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const stop = new AbortController();
    past(shadowPath(device, name), stop.signal)
      .then((found) => !stop.signal.aborted && setSeries((held) => merged(found, held)))
      .catch((error) => setProblem(error.message));
    return () => stop.abort();
  }, []);
  useEffect(() => setSeries((held) => merged(held, present(shadow))), [shadow]);

  const drawn = [...series].filter(([, points]) => points.length > 0);
  return (
    <div class="charts">
      {problem && <p class="problem" role="alert">{problem}</p>}
      {drawn.length === 0 && !problem && <p class="card empty">This device reports no numbers.</p>}
      {drawn.map(([path, points]) => <Chart key={path} title={field(path)} points={points} />)}
    </div>
  );
}

/** The numbers in the history, oldest first, by path. */
async function past(path, signal) {
  const found = new Map();
  let before = "";
  for (let page = 0; page < PAGES_MAX && !signal.aborted; page += 1) {
    const { entries, end } = await ask("GET", `${path}/history?limit=100${before}`);
    for (const { timestamp, changes } of entries) {
      // A change may be of all that is below a path.
      for (const [at, value] of changes.flatMap((change) => [...leaves(change.value, change.path)])) {
        if (at.startsWith("/reported/") && typeof value === "number") {
          const of = at.slice("/reported".length);
          found.set(of, [[timestamp, value], ...(found.get(of) ?? [])]);
        }
      }
    }
    if (end !== "more") break;
    before = `&before=${entries.at(-1).version}`;
  }
  return found;
}

function present(shadow) {
  const numbers = [...leaves(shadow.state.reported ?? {})].filter(([, value]) => typeof value === "number");
  return new Map(numbers.map(([path, value]) => [path, [[shadow.timestamp, value]]]));
}

/** Both, in order of time, without what is in both. */
function merged(older, newer) {
  const all = new Map(older);
  for (const [path, points] of newer) {
    const held = all.get(path) ?? [];
    const last = held.at(-1);
    const fresh = last ? points.filter(([at, value]) => at > last[0] || (at === last[0] && value !== last[1])) : points;
    all.set(path, [...held, ...fresh].slice(-POINTS_MAX));
  }
  return all;
}

function Chart({ title, points }) {
  const [marked, setMarked] = useState(null);
  const values = points.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [from, to] = [points[0][0], points.at(-1)[0]];
  const x = (at) => (to === from ? WIDTH : ((at - from) / (to - from)) * WIDTH);
  const y = (value) => (high === low ? HEIGHT / 2 : HEIGHT - 6 - ((value - low) / (high - low)) * (HEIGHT - 12));
  // A value holds until the next one comes.
  const line = points.map(([at, value], i) => (i === 0 ? `M${x(at)} ${y(value)}` : `H${x(at)}V${y(value)}`)).join("");
  const point = marked ?? points.at(-1);
  const mark = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const at = from + ((event.clientX - box.left) / box.width) * (to - from);
    setMarked(points.findLast(([time]) => time <= at) ?? points[0]);
  };
  return (
    <figure class="card chart">
      <figcaption><b>{title}</b><span class="num">{number(point[1])}</span></figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={`${title}: now ${number(values.at(-1))}, lowest ${number(low)}, highest ${number(high)}, ${count(points.length)} values`} onPointerMove={mark} onPointerLeave={() => setMarked(null)}>
        <path class="area" d={`${line}V${HEIGHT}H${x(from)}Z`} />
        <path class="line" d={`${line}H${WIDTH}`} />
        {marked && <path class="cursor" d={`M${x(marked[0])} 0V${HEIGHT}`} />}
      </svg>
      <div class="axis muted num"><span>{clock(point[0])}</span><span>{number(low)} … {number(high)}</span></div>
    </figure>
  );
}

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 3 });
