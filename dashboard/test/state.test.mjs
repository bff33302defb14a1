import assert from "node:assert/strict";
import { test } from "node:test";

import { collisions, edits, equal, leaves, patchOf } from "../src/state.js";

/** RFC 7396, as the service does it. */
function merged(target, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const result = target !== null && typeof target === "object" && !Array.isArray(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else Object.defineProperty(result, key, { value: merged(result[key], value), enumerable: true, configurable: true, writable: true });
  }
  return result;
}

test("the patch of the edits makes one state of the other", () => {
  const states = [
    {},
    { a: 1 },
    { a: { b: 1, c: [1, 2] } },
    { a: { b: {}, c: [2, 1] }, d: "x" },
    { a: [{}], "e/f": { "~": true } },
    { a: {}, "e/f": 2 },
    JSON.parse('{"__proto__": {"x": 1}, "a": false}'),
  ];
  for (const before of states) {
    for (const after of states) {
      const list = edits(before, after);
      const result = merged(before, patchOf(list));
      assert.ok(equal(result, after), `${JSON.stringify(before)} → ${JSON.stringify(after)}: ${JSON.stringify(result)}`);
      assert.equal(list.length === 0, equal(before, after));
    }
  }
});

test("leaves are scalars, arrays and empty objects", () => {
  const found = [...leaves({ a: { b: 1, c: {} }, d: [{ e: 1 }] })];
  assert.deepEqual(found, [["/a/b", 1], ["/a/c", {}], ["/d", [{ e: 1 }]]]);
});

test("only edits that meet a change are asked about", () => {
  const base = { a: 1, b: { c: 1 }, d: 1 };
  const theirs = { a: 2, b: { c: 1, x: 1 }, d: 5 };
  const list = [{ path: "/a", value: 3 }, { path: "/b", value: undefined }, { path: "/d", value: 4 }];
  for (const [conflicts, truncated, expected, also = {}] of [
    [["/desired/a"], false, ["/a"]],
    [["/desired/b/x"], false, ["/b"]], // below what goes
    [["/desired"], false, ["/a", "/b", "/d"]],
    [["/desired/aa"], false, []],
    [[], true, ["/a", "/b", "/d"]],
    [["/desired/a", "/desired/d"], false, ["/a"], { d: 4 }], // to what one wants oneself
  ]) {
    const refusal = { conflicts: conflicts.map((path) => ({ path })), truncated };
    assert.deepEqual(collisions(list, refusal, base, { ...theirs, ...also }).map((row) => row.path), expected, conflicts.join());
  }
});
