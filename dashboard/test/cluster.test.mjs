import assert from "node:assert/strict";
import test from "node:test";

import { differencesAt, duration, nodeState } from "../src/cluster.js";

test("a node is named with what it has otherwise than others", () => {
  const cluster = { differences: [{ name: "auth.users", nodes: [[1, 2], [3]] }, { name: "version", nodes: [[1], [2, 3]] }, { name: "[limits]", nodes: [[1], [2]] }] };
  assert.deepEqual(differencesAt(1, cluster), ["auth.users", "[limits]"]);
  // Sections are compared only among nodes of one version.
  assert.deepEqual(differencesAt(3, cluster), ["auth.users"]);
  assert.deepEqual(differencesAt(4, cluster), []);
});

test("the state of a node is a word", () => {
  const table = [[{ alive: true, left: false }, "alive"], [{ alive: false, left: false }, "not heard of"], [{ alive: false, left: true }, "has left"]];
  for (const [node, word] of table) assert.equal(nodeState(node).word, word);
});

test("a time has the digits that matter", () => {
  for (const [milliseconds, text] of [[0, "0.0 s"], [499, "0.5 s"], [9_949, "9.9 s"], [12_400, "12 s"]]) assert.equal(duration(milliseconds), text);
});
