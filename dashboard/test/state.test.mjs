import assert from "node:assert/strict";
import { test } from "node:test";

import { explained } from "../src/format.js";
import { astray } from "../src/json.js";
import { collisions, edits, equal, fields, leaves, Newest, numbers, patchOf, sides, withoutNulls, withPoints } from "../src/state.js";

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
    assert.deepEqual(collisions(list, refusal, { base, seen: base, theirs: { ...theirs, ...also } }).map((row) => row.path), expected, conflicts.join());
  }
});

test("a field is in one part of a merge, in the first round and in later ones", () => {
  const base = { a: 1, b: 1, c: { x: 1 }, d: 1, e: 1 };
  for (const [wanted, seen, theirs, conflicts, truncated, expected] of [
    // The first round: `a` by both, `b` by one, `e` by the others.
    [{ a: 2, b: 2 }, base, { ...base, a: 3, e: 3 }, ["/desired/a"], false, ["/a", "/b", "/e"]],
    // `a` was decided, and then somebody changed `b`.
    [{ a: 2, b: 2 }, { ...base, a: 3 }, { ...base, a: 3, b: 3 }, ["/desired/b"], false, ["/b", "/a", ""]],
    [{ a: 2, b: 2 }, { ...base, a: 3 }, { ...base, a: 3, b: 3 }, [], true, ["/b", "/a", ""]],
    // Decided against a change below, and one above.
    [{ c: undefined, d: 2 }, { ...base, c: { x: 2 } }, { ...base, c: { x: 2 }, d: 3 }, ["/desired/d"], false, ["/d", "/c", ""]],
    [{ "c/x": 2, d: 2 }, { ...base, c: 5 }, { ...base, c: 5, d: 3 }, ["/desired/d"], false, ["/d", "/c/x", ""]],
    // Both want the same.
    [{ a: 3, b: 2 }, base, { ...base, a: 3, b: 4 }, ["/desired/a", "/desired/b"], false, ["/b", "/a", ""]],
  ]) {
    const list = Object.entries(wanted).map(([path, value]) => ({ path: `/${path}`, value }));
    const refusal = { conflicts: conflicts.map((path) => ({ path })), truncated };
    const { rows, clean, others } = sides(list, refusal, { base, seen, theirs });
    assert.deepEqual([rows, clean, others].map((part) => part.map(({ path }) => path).join()), expected, JSON.stringify([wanted, theirs]));
    assert.ok(rows.every((row) => equal(row.base, base[row.path.slice(1)])), "the base is what was loaded");
  }
});

test("points are in the order of versions and each is there once", () => {
  const of = (...versions) => new Map([["/room", versions.map((version) => ({ version, timestamp: 100 + version, value: version / 2 }))]]);
  const versions = (series) => series.get("/room").map(({ version }) => version);
  for (const [held, added, max, expected] of [
    [of(), of(1, 2), 9, [1, 2]],
    // The document comes before the history and before the events that led to it.
    [of(5), of(3, 4), 9, [3, 4, 5]],
    [of(1, 5), of(1, 3, 5), 9, [1, 3, 5]],
    [of(1, 2, 3), of(4), 3, [2, 3, 4]],
  ]) {
    assert.deepEqual(versions(withPoints(held, added, max)), expected);
  }
  const held = of(1);
  assert.equal(withPoints(held, of(1), 9).get("/room"), held.get("/room"), "nothing new is nothing to draw");
});

test("the numbers of an update are of the versions that set them", () => {
  const stamp = (version) => ({ timestamp: 10 * version, version });
  const message = { version: 7, timestamp: 70, state: { reported: { a: 1, b: { c: 2, d: "x" }, e: 3 }, desired: { a: 9 } } };
  const metadata = { reported: { a: stamp(7), b: { c: stamp(4), d: stamp(7) } } };
  const points = (message) => [...numbers(message)].map(([path, [{ version, timestamp, value }]]) => [path, version, timestamp, value]);
  assert.deepEqual(points({ ...message, metadata }), [["/a", 7, 70, 1], ["/b/c", 4, 40, 2], ["/e", 7, 70, 3]]);
  assert.deepEqual(points(message), [["/a", 7, 70, 1], ["/b/c", 7, 70, 2], ["/e", 7, 70, 3]], "without metadata");
  for (const state of [null, {}, { reported: null }]) assert.deepEqual(points({ version: 1, timestamp: 1, state }), []);
});

test("a refusal is explained by its message and its detail", () => {
  for (const [body, expected] of [
    [{ message: "Version conflict" }, "Version conflict"],
    [{ message: "Invalid JSON", detail: "line 1" }, "Invalid JSON: line 1"],
    [{ detail: "line 1" }, "line 1"],
    [{ message: "Forbidden: /desired", detail: "/desired" }, "Forbidden: /desired"],
    [{}, ""],
  ]) {
    assert.equal(explained(body), expected);
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
    ['{"a": [1795874276355000000, -1795874276355000000, 123456789012345680000]}', undefined], // as JSON.stringify writes them
    ['{"a": 1795874276355000001}', "The number 1795874276355000001 cannot be kept exactly."],
    ['{"a": 9007199254740993}', "The number 9007199254740993 cannot be kept exactly."],
    ['{"a": -1e999}', "The number -1e999 cannot be kept exactly."],
  ]) {
    assert.doesNotThrow(() => JSON.parse(text), text);
    assert.equal(astray(text), expected, text);
  }
});

// A page that was open while the store was restored went on to show the former state, as all versions were lower.
test("an older document does not replace a newer one, unless versions went back", () => {
  const newest = new Newest();
  const accepted = (...versions) => versions.map((version) => newest.accepts(version && { version }));
  assert.deepEqual(accepted(4, 3, 4, null, 3, 5), [true, false, true, true, false, true]);
  newest.forget();
  assert.deepEqual(accepted(2, 1, 3), [true, false, true]);
});
