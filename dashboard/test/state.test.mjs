import assert from "node:assert/strict";
import { test } from "node:test";

import { astray } from "../src/json.js";
import { collisions, edits, equal, fields, leaves, patchOf, withoutNulls } from "../src/state.js";

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

test("a field differs where the delta says so, and is hidden where it ought to", () => {
  const desired = { a: 1, b: { c: 1 }, d: 1, e: 1 };
  const reported = { a: 1, b: 5, d: 2, f: 1 };
  const found = fields({ desired, reported, delta: { b: { c: 1 }, d: 1 } });
  const marks = found.map(({ path, differs, hidden }) => `${path} ${differs ? "differs" : hidden ? "hidden" : "same"}`);
  assert.deepEqual(marks, ["/a same", "/b/c differs", "/d differs", "/e hidden", "/b same", "/f same"]);
  assert.deepEqual(fields({}), []);
});

test("what a merge patch removes is not there", () => {
  const typed = JSON.parse('{"a": null, "b": {"c": null, "d": [null]}, "__proto__": {"e": null}}');
  assert.ok(equal(withoutNulls(typed), JSON.parse('{"b": {"d": [null]}, "__proto__": {}}')));
});

test("keys that are there twice and numbers that would change are found", () => {
  for (const [text, expected] of [
    ['{"a": 1, "b": {"a": 2}, "c": [{"a": 1}, {"a": "a\\\\"}]}', undefined],
    ['{"a": "{\\"a\\":", "b": "\\"a\\": 1"}', undefined],
    ['{"a": 1, "b": {}, "a" : 2}', 'The key "a" is there twice.'],
    ['[{"a": {"b": [], "\\u0062": 2}}]', 'The key "\\u0062" is there twice.'],
    ['{"a": [9007199254740992, -0.5, 1e3, 0.1]}', undefined],
    ['{"a": 9007199254740993}', "The number 9007199254740993 cannot be kept exactly."],
    ['{"a": -1e999}', "The number -1e999 cannot be kept exactly."],
  ]) {
    assert.doesNotThrow(() => JSON.parse(text), text);
    assert.equal(astray(text), expected, text);
  }
});
