// Times and values of a chart, and the marks of its axes. Pure.

/** Returns when each point was, in seconds. Times are in whole ones: the points of one second share it, in their order. */
export function spread(points) {
  const inSecond = new Map();
  for (const { timestamp } of points) inSecond.set(timestamp, (inSecond.get(timestamp) ?? 0) + 1);
  let index = 0;
  return points.map(({ timestamp }, i) => {
    index = points[i - 1]?.timestamp === timestamp ? index + 1 : 0;
    return timestamp + index / inSecond.get(timestamp);
  });
}

/** Returns the points from `from` on as `{time, value}`; the value that held at `from` begins there, marked as `held`. */
export function since(points, from) {
  const times = spread(points);
  const all = points.map(({ value, timestamp }, i) => ({ time: times[i], timestamp, value }));
  const first = all.findIndex(({ time }) => time >= from);
  const before = first < 0 ? all.at(-1) : all[first - 1];
  const kept = first < 0 ? [] : all.slice(first);
  return before ? [{ ...before, time: from, held: true }, ...kept] : kept;
}

/** Returns round values between `low` and `high`, about `count`; of one value, this one. */
export function ticks(low, high, count = 3) {
  if (!(high > low)) return [low];
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((step) => step >= raw * 0.999);
  const found = [];
  // Multiples, as sums would gather what rounding leaves.
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) found.push(Number((n * step).toPrecision(12)));
  return found;
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800];

/** Returns round times of day between two times in seconds, at most `count`. `offset`: of the local time, in seconds. */
export function timeTicks(from, to, count = 3, offset = 0) {
  if (!(to > from)) return [];
  const step = STEPS.find((step) => (to - from) / step <= count) ?? Math.ceil((to - from) / count / 604_800) * 604_800;
  const found = [];
  for (let time = Math.ceil((from + offset) / step) * step - offset; time <= to; time += step) found.push(time);
  return found;
}
