import assert from "node:assert/strict";
import { test } from "node:test";

import { actionsOf, described, EMPTY, failuresOf, isFinal, parseExpect, parseWaves, suggestedId, wavesOf } from "../src/rollout.js";

const counts = (more) => ({ queued: 0, sent: 0, converged: 0, timedOut: 0, conflict: 0, skipped: 0, failed: 0, rolledBack: 0, kept: 0, ...more });

test("waves are numbers and percentages, the last all", () => {
  assert.deepEqual(parseWaves("10, 10% 33.5%,100%"), [10, "10%", "33.5%", "100%"]);
  for (const [text, reason] of [["10", /last wave/], ["", /last wave/], ["x, 100%", /'x'/], ["0, 100%", /'0'/], ["101%", /'101%'/], ["1.5, 100%", /'1.5'/]]) assert.throws(() => parseWaves(text), reason, text);
});

test("expectations are lines with a path and a value, or none", () => {
  assert.deepEqual(parseExpect('/desired/firmware = "1.4.0"\n\n /desired/a=2 \n/tags/b absent'), [{ path: "/desired/firmware", value: "1.4.0" }, { path: "/desired/a", value: 2 }, { path: "/tags/b", absent: true }]);
  for (const [text, reason] of [["desired/a = 1", /not of the form/], ["/desired/a", /not of the form/], ["/desired/a = eco", /quotes/]]) assert.throws(() => parseExpect(text), reason, text);
});

test("a form makes the description that the service takes", () => {
  const form = { ...EMPTY, query: " tags.region:west ", desired: '{"firmware":"1.5.0"}' };
  assert.deepEqual(described(form), { problems: {}, spec: { query: "tags.region:west", patch: { desired: { firmware: "1.5.0" } }, waves: [10, "10%", "100%"], success: "converged", deadlineSeconds: 600, abort: { failures: 2 } } });
  const all = { ...form, shadow: "cfg", tags: '{"a":null}', expect: "/desired/a = 1", rate: "20", success: "query", successQuery: "reported.health:ok", failures: "", percent: "2.5", later: true, paused: true };
  assert.deepEqual(described(all).spec, {
    query: "tags.region:west", shadow: "cfg", patch: { desired: { firmware: "1.5.0" }, tags: { a: null } }, expect: [{ path: "/desired/a", value: 1 }], rate: 20, waves: [10, "10%", "100%"],
    success: "query: reported.health:ok", deadlineSeconds: 600, abort: { percent: 2.5 }, laterDevices: true, paused: true,
  });
  // What belongs to waves is of no bulk change; devices of a list do not come later.
  assert.deepEqual(described({ ...all, how: "bulk", rate: "" }).spec, { query: "tags.region:west", shadow: "cfg", patch: { desired: { firmware: "1.5.0" }, tags: { a: null } }, expect: [{ path: "/desired/a", value: 1 }] });
  assert.deepEqual(described({ ...form, select: "devices", devices: "d1, d2\nd3", later: true, success: "accepted", failures: "" }).spec, { devices: ["d1", "d2", "d3"], patch: { desired: { firmware: "1.5.0" } }, waves: [10, "10%", "100%"], success: "accepted" });
});

test("each field says what is wrong with it", () => {
  const good = { ...EMPTY, query: "*", desired: '{"a":1}' };
  assert.deepEqual(described(good).problems, {});
  for (const [part, field] of [
    [{ query: " " }, "query"], [{ select: "devices", devices: "" }, "devices"], [{ select: "devices", devices: "a b a" }, "devices"], [{ desired: "{" }, "desired"], [{ desired: "{}" }, "desired"], [{ desired: "[1]" }, "desired"],
    [{ desired: '{"a":1,"a":2}' }, "desired"], [{ tags: "x" }, "tags"], [{ expect: "a" }, "expect"], [{ rate: "0" }, "rate"], [{ rate: "x" }, "rate"], [{ waves: "5" }, "waves"], [{ success: "query" }, "successQuery"],
    [{ deadline: "" }, "deadline"], [{ deadline: "1.5" }, "deadline"], [{ failures: "-1" }, "failures"], [{ percent: "101" }, "percent"],
  ]) assert.deepEqual(Object.keys(described({ ...good, ...part }).problems), [field], JSON.stringify(part));
});

test("a command is there where the state takes it", () => {
  for (const [state, actions, final] of [
    ["running", ["pause", "cancel", "rollback"], false], ["paused", ["resume", "cancel", "rollback"], false], ["completed", ["rollback"], true], ["aborted", ["rollback"], true], ["cancelled", ["rollback"], true],
    ["rolling-back", [], false], ["rolled-back", [], true],
  ]) assert.deepEqual([actionsOf(state), isFinal(state)], [actions, final], state);
});

test("what is finished fills the waves in their order", () => {
  const waves = [{ size: 10, state: "done" }, { size: 31, state: "running" }, { size: 310, state: "waiting" }];
  const found = wavesOf({ waves, devices: 310, counts: counts({ queued: 290, sent: 6, converged: 12, timedOut: 1, skipped: 1 }) });
  assert.deepEqual(found.map(({ from, to, sent, finished }) => [from, to, sent, finished]), [[0, 10, 10, 10], [10, 31, 10, 4], [31, 310, 0, 0]]);
  assert.equal(failuresOf(counts({ timedOut: 1, conflict: 2, failed: 3, skipped: 4 })), 6);
});

test("a suggested id is one that the service takes", () => {
  assert.equal(suggestedId(new Date(2026, 0, 2, 3, 4, 5)), "change-20260102-030405");
});
