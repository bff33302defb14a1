import assert from "node:assert/strict";
import { test } from "node:test";

import { since, spread, ticks, timeTicks } from "../src/scale.js";

const points = (...pairs) => pairs.map(([timestamp, value], version) => ({ timestamp, value, version }));

test("points of one second share it, in their order", () => {
  assert.deepEqual(spread(points([5, 1], [7, 2], [7, 3], [9, 4])), [5, 7, 7.5, 9]);
});

test("a range begins with the value that held", () => {
  const all = points([5, 1], [7, 2], [9, 4]);
  const found = (from) => since(all, from).map(({ time, value, held }) => [time, value, held ?? false]);
  assert.deepEqual(found(5), [[5, 1, false], [7, 2, false], [9, 4, false]]);
  assert.deepEqual(found(8), [[8, 2, true], [9, 4, false]]);
  assert.deepEqual(found(20), [[20, 4, true]]);
  assert.deepEqual(since([], 3), []);
});

test("the marks of an axis are round and within it", () => {
  for (const [low, high, expected] of [
    [0, 3, [0, 1, 2, 3]],
    [18.5, 21.1, [19, 20, 21]],
    [0.1, 0.35, [0.1, 0.2, 0.3]],
    [-5, 5, [-5, 0, 5]],
    [0, 1000, [0, 500, 1000]],
    [4, 4, [4]],
  ]) assert.deepEqual(ticks(low, high), expected, `${low} to ${high}`);
  for (const [low, high] of [[1e-9, 3e-9], [1e12, 1.1e12], [-7.3, -7.2]]) {
    const found = ticks(low, high);
    assert.ok(found.length >= 2 && found.length <= 5 && found.every((value) => value >= low * 1.0000001 - 1e-12 || value >= low), `${found}`);
  }
});

test("the times of an axis are round in local time", () => {
  assert.deepEqual(timeTicks(100, 700, 3), [300, 600]);
  assert.deepEqual(timeTicks(3500, 90_000, 3, 3600), [39_600, 82_800]);
  assert.deepEqual(timeTicks(5, 5), []);
  assert.ok(timeTicks(0, 1e9, 4).length <= 5);
});
