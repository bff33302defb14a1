// Numbers of a shadow over time: what is reported, over what is desired.

import { useState } from "preact/hooks";

import { clock, field, plural } from "./format.js";
import { useNow } from "./frames.js";
import { since, spread, ticks, timeTicks } from "./scale.js";
import { useSeries } from "./series.js";

/** More are a line alone. */
const DOTS_MAX = 80;
const [WIDTH, HEIGHT, MARGIN] = [320, 120, 6];
/** Marks of the values, about. */
const TICKS = 4;
const RANGES = { all: ["Everything read", Infinity], 900: ["15 minutes", 900], 3600: ["1 hour", 3600], 86400: ["24 hours", 86_400], 604800: ["7 days", 604_800] };

export function Charts({ device, name, shadow, live }) {
  const { series, problem, since: read, older } = useSeries(device, name, shadow, live);
  const [range, setRange] = useState("all");
  const now = useNow(5000);
  const paths = [...new Set([...series.reported.keys(), ...series.desired.keys()])];
  const all = paths.flatMap((path) => [...(series.reported.get(path) ?? []), ...(series.desired.get(path) ?? [])]);
  // The same for all, so that they can be compared.
  const length = RANGES[range][1];
  const newest = Math.max(shadow.timestamp, ...paths.flatMap((path) => [series.reported, series.desired].map((of) => spread(of.get(path) ?? []).at(-1) ?? 0)));
  const to = length === Infinity ? newest : Math.max(newest, now);
  const from = length === Infinity ? Math.min(...all.map(({ timestamp }) => timestamp)) : to - length;
  return (
    <>
      <div class="filters">
        <label class="check">Range <select value={range} onChange={(event) => setRange(event.target.value)}>{Object.entries(RANGES).map(([key, [text]]) => <option key={key} value={key}>{text}</option>)}</select></label>
        {older && <button onClick={older}>Read older values</button>}
        {read !== undefined && <span class="muted">{older ? `Read back to ${clock(read)}.` : "Everything that is kept is read."}</span>}
      </div>
      <div class="charts">
        {problem && <p class="problem" role="alert">{problem}</p>}
        {paths.length === 0 && !problem && <p class="card empty">This device reports no numbers.</p>}
        {paths.map((path) => <Chart key={path} title={field(path)} reported={since(series.reported.get(path) ?? [], from)} desired={since(series.desired.get(path) ?? [], from)} from={from} to={to} />)}
      </div>
    </>
  );
}

function Chart({ title, reported, desired, from, to }) {
  const [marked, setMarked] = useState(null);
  const drawn = reported.length > 0 ? reported : desired;
  const values = [...reported, ...desired].map(({ value }) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (time) => (to === from ? WIDTH / 2 : MARGIN + ((time - from) / (to - from)) * (WIDTH - 2 * MARGIN));
  const y = (value) => (high === low ? HEIGHT / 2 : HEIGHT - MARGIN - ((value - low) / (high - low)) * (HEIGHT - 2 * MARGIN));
  const point = drawn[marked] ?? drawn.at(-1);
  const wanted = desired.findLast(({ time }) => marked === null || time <= point?.time);
  const mark = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * WIDTH;
    setMarked(Math.max(0, drawn.findLastIndex(({ time }) => x(time) <= across)));
  };
  const press = (event) => {
    const at = marked ?? drawn.length - 1;
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: drawn.length - 1, Escape: null }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    setMarked(next === null ? null : Math.max(0, Math.min(drawn.length - 1, next)));
  };
  return (
    <figure class="card chart">
      <figcaption>
        <b>{title}</b>
        <span aria-live={marked === null ? "off" : "polite"}>
          {marked !== null && <small class="muted num">{clock(point.time)}</small>} {reported.length > 0 && <b class="num">{number(point.value)}</b>}
          {wanted && <small class="num wanted"> of {number(wanted.value)}</small>}
        </span>
      </figcaption>
      <div class="plot">
        <div class="y-axis muted num" aria-hidden="true">{ticks(low, high, TICKS).map((value) => <span key={value} style={{ top: `${(100 * y(value)) / HEIGHT}%` }}>{number(value)}</span>)}</div>
        <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" tabIndex={0} aria-label={label(title, reported, desired)} onPointerMove={mark} onPointerLeave={() => setMarked(null)} onKeyDown={press} onBlur={() => setMarked(null)}>
          <path class="lines" d={ticks(low, high, TICKS).map((value) => `M0 ${y(value)}H${WIDTH}`).join("")} />
          {reported.length > 0 && <path class="area" d={`${steps(reported, x, y)}H${x(to)}V${HEIGHT}H${x(reported[0].time)}Z`} />}
          {desired.length > 0 && <path class="desired" d={`${steps(desired, x, y)}H${x(to)}`} />}
          {reported.length > 0 && <path class="line" d={`${steps(reported, x, y)}H${x(to)}`} />}
          <path class="dots" d={dots(reported, x, y)} />
          {marked !== null && point && <path class="cursor" d={`M${x(point.time)} 0V${HEIGHT}`} />}
        </svg>
      </div>
      <TimeAxis from={from} to={to} x={x} />
    </figure>
  );
}

/** The ends of the time, and round times in between. */
function TimeAxis({ from, to, x }) {
  const offset = -60 * new Date(to * 1000).getTimezoneOffset();
  const between = timeTicks(from, to, 4, offset).filter((time) => x(time) > WIDTH * 0.25 && x(time) < WIDTH * 0.72);
  return (
    <div class="axis muted num">
      <span>{clock(from)}</span>
      {between.slice(0, 2).map((time) => <span key={time} class="between" style={{ left: `${(100 * x(time)) / WIDTH}%` }}>{new Date(time * 1000).toLocaleTimeString([], { hour12: false, ...(to - from > 180 && { hour: "2-digit", minute: "2-digit" }) })}</span>)}
      {to > from && <span>{clock(to)}</span>}
    </div>
  );
}

/** A value holds until the next one comes. */
const steps = (points, x, y) => points.map(({ time, value }, i) => (i === 0 ? `M${x(time)} ${y(value)}` : `H${x(time)}V${y(value)}`)).join("");

const dots = (points, x, y) => (points.length > DOTS_MAX ? "" : points.filter(({ held }) => !held).map(({ time, value }) => `M${x(time)} ${y(value)}h0`).join(""));

function label(title, reported, desired) {
  const wanted = desired.length > 0 ? `desired ${number(desired.at(-1).value)}` : "";
  if (reported.length === 0) return `${title}: ${wanted}, nothing reported`;
  const values = reported.map(({ value }) => value);
  const own = reported.filter(({ held }) => !held).length;
  return [`${title}: now ${number(values.at(-1))}`, wanted, `lowest ${number(Math.min(...values))}`, `highest ${number(Math.max(...values))}`, plural(own, "value")].filter(Boolean).join(", ");
}

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 3 });
