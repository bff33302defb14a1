import assert from "node:assert/strict";
import { test } from "node:test";

import { addressOf, deviceAddress, readAddress } from "../src/address.js";
import { isTime, knownPaths, valueOf } from "../src/fields.js";
import { completed, devicesQuery, expanded, fieldKeys, fieldName, fixedValues, hasTerm, hasValues, matchingFields, queryError, termAt, toggled, valueText } from "../src/query.js";
import { EventParser } from "../src/sse.js";

test("the term at the caret is found, and its field", () => {
  // The caret is at `|`.
  for (const [text, expected] of [
    ["|", ["field", ""]],
    ["rep|", ["field", "rep"]],
    ["drift:true rep|orted.mode:a", ["field", "rep"]],
    ["-conn|", ["field", "conn"]],
    ["(a OR conn|", ["field", "conn"]],
    ["NOT conn|", ["field", "conn"]],
    ["drift:|", ["value", "", "drift"]],
    ["drift:tr|", ["value", "tr", "drift"]],
    ["tags.a:(x OR y|", ["value", "y", "tags.a"]],
    ["tags.a:(x OR y) re|", ["field", "re"]],
    ['tags.a:"two wo|', ["value", "two wo", "tags.a"]],
    ['tags.a:"x (y" re|', ["field", "re"]],
    ["reported.a\\:b:1|", ["value", "1", "reported.a\\:b"]],
    ["version:>=1|", ["value", ">=1", "version"]],
    ["version:[1 TO |", null],
    ["version:[1 TO 5] re|", ["field", "re"]],
    ['"free te|', null],
  ]) {
    const caret = text.indexOf("|");
    const found = termAt(text.replace("|", ""), caret);
    assert.deepEqual(found && [found.kind, found.text, ...(found.field ? [found.field] : [])], expected, text);
  }
});

test("a completion replaces the whole term and no other", () => {
  for (const [text, insert, expected] of [
    ["rep|", "reported.mode:", "reported.mode:|"],
    ["drift:true rep|orted.mo:eco", "reported.mode:", "drift:true reported.mode:|eco"],
    ["tags.a:(x OR y|) drift:true", "yes", "tags.a:(x OR yes|) drift:true"],
    ['tags.a:"two wo|rds" x', '"two words"', 'tags.a:"two words"| x'],
    ["drift:t|", "true", "drift:true|"],
  ]) {
    const caret = text.indexOf("|");
    const plain = text.replace("|", "");
    const { query, caret: after } = completed(plain, termAt(plain, caret), insert);
    assert.equal(`${query.slice(0, after)}|${query.slice(after)}`, expected, text);
  }
});

test("fields are those that begin with the text, then those that have it", () => {
  const known = [{ name: "reported.mode", about: "" }, { name: "tags.mode", about: "" }, { name: "reported.drift", about: "" }];
  const labels = (text) => matchingFields(text, known).map(({ label }) => label);
  assert.deepEqual(labels("mode"), ["reported.mode", "tags.mode"]);
  assert.deepEqual(labels("dr"), ["drift", "reported.drift"]);
  assert.deepEqual(labels("DEV"), ["device"]);
  assert.deepEqual(labels("nothing"), []);
});

test("names and values are spelled as the language has them", () => {
  for (const keys of [["reported", "a"], ["reported", "a.b", "c:d", "e f"], ["tags", "\\", "\"x\""]]) assert.deepEqual(fieldKeys(fieldName(keys)), keys);
  assert.equal(fieldName(["reported", "a.b"]), "reported.a\\.b");
  for (const [value, expected] of [["1.4.2", "1.4.2"], ["two words", '"two words"'], ["AND", '"AND"'], ["-1", '"-1"'], ['say "x"', '"say \\"x\\""'], [true, "true"], [21.5, "21.5"], ["a*", '"a*"']]) assert.equal(valueText(value), expected);
  assert.deepEqual([fixedValues("drift"), fixedValues("reported.drift"), fixedValues("shadow.hasDelta")], [["true", "false"], undefined, ["true", "false"]]);
  assert.equal(fixedValues("shadow.name.cfg.version")[0], ">1");
  assert.equal(fixedValues("shadow.name.cfg.reported.version"), undefined);
  for (const field of ["reported.a", "shadow.tags.b", "shadow.name.cfg.delta.x", "attributes.c", "thingTypeName"]) assert.ok(hasValues(field), field);
  for (const field of ["reported", "reported.", "foo", "shadow.name.cfg", "version", "reportedx.a"]) assert.ok(!hasValues(field), field);
});

test("a word alone is a part of an id", () => {
  for (const [typed, expected] of [["SOR-099", "*SOR-099*"], [" lamp ", "*lamp*"], ["", ""], ["lamp-*", "lamp-*"], ["drift:true", "drift:true"], ["a b", "a b"], ["NOT", "NOT"], ["-a", "-a"]]) assert.equal(expanded(typed), expected, typed);
});

test("a condition is added to a query and taken from it", () => {
  for (const [query, term, expected] of [
    ["", "drift:true", "drift:true"],
    ["drift:true", "drift:true", ""],
    ["lamp", "drift:true", "*lamp* drift:true"],
    ["a:1 OR b:2", "drift:true", "(a:1 OR b:2) drift:true"],
    ["a:1 drift:true b:2", "drift:true", "a:1 b:2"],
    ["a:1 AND drift:true", "drift:true", "a:1"],
    ["a:1 OR drift:true", "drift:true", "(a:1 OR drift:true) drift:true"],
  ]) assert.equal(toggled(query, term), expected, query);
  assert.deepEqual([hasTerm("a drift:true", "drift:true"), hasTerm("a OR drift:true", "drift:true"), hasTerm("xdrift:true", "drift:true")], [true, false, false]);
  assert.deepEqual([devicesQuery(["a"]), devicesQuery(["a", "p:1"])], ["device:a", 'device:(a OR "p:1")']);
});

test("an error of a query has its column", () => {
  assert.deepEqual(queryError("Invalid parameter 'q': column 7: expected true, false or *, for drift"), { parameter: "q", column: 6, reason: "expected true, false or *, for drift" });
  assert.deepEqual(queryError("Invalid parameter 'limit': too large"), { parameter: "limit", column: undefined, reason: "too large" });
  assert.deepEqual(queryError("Forbidden"), { parameter: undefined, column: undefined, reason: "Forbidden" });
});

test("what MQTT delivered is newer than what was read", () => {
  const fields = { drift: false, version: 3, "reported.a": 1, "reported.parts.id": "x1", "shadow.name.cfg.reported.rate": 5, connected: false, updated: 10 };
  const row = { id: "lamp", read: { connected: false, drift: false, shadows: 2, fields }, docs: new Map(), presence: undefined };
  for (const [name, value] of Object.entries(fields)) assert.equal(valueOf(row, name), value, name);
  const document = { version: 4, timestamp: 20, state: { reported: { a: 2, parts: [{}, { id: "x2" }] }, delta: { a: 3 } } };
  const heard = { ...row, presence: { connected: true, lastSeen: 21 }, docs: new Map([["", document]]) };
  for (const [name, value] of Object.entries({ device: "lamp", connected: true, seen: 21, version: 4, "reported.a": 2, "reported.parts.id": "x2", "shadow.hasDelta": true, "delta.a": 3, "reported.b": undefined, "shadow.name.cfg.reported.rate": 5, updated: 20 })) assert.equal(valueOf(heard, name), value, name);
  // The other shadow may be about to be delivered.
  assert.equal(valueOf(heard, "drift"), false);
  heard.docs.set("cfg", { version: 1, timestamp: 15, state: { reported: { rate: 6 } } });
  assert.deepEqual([valueOf(heard, "drift"), valueOf(heard, "shadow.name.cfg.reported.rate"), valueOf(heard, "updated")], [true, 6, 20]);
  assert.deepEqual(["updated", "seen", "shadow.updated", "shadow.name.a.updated", "reported.updated", "tags.seen"].map(isTime), [true, true, true, true, false, false]);
});

test("the paths of a fleet are those that most devices have first", () => {
  const states = [{ reported: { a: 1, b: { c: [1] } } }, { reported: { a: 2 }, tags: { "x.y": 1 } }, {}];
  assert.deepEqual(knownPaths(states).map(({ keys, count }) => [fieldName(keys), count]), [["reported.a", 2], ["reported.b.c", 1], ["tags.x\\.y", 1]]);
});

test("an address is read as it was written", () => {
  for (const [view, parts, params] of [["fleet", [], {}], ["fleet", [], { q: "a:1 & b?", sort: "-x" }], ["device", ["a:b", "n/a me"], { tab: "history" }], ["about", [], {}]]) {
    assert.deepEqual(readAddress(addressOf(view, parts, params)), { view, parts, params });
  }
  assert.equal(addressOf("fleet"), "#/");
  assert.equal(deviceAddress("lamp", ""), "#/device/lamp");
  assert.deepEqual(readAddress("#/device/%E0%A4%A").parts, [], "an address that nobody can read");
});

test("events are read however they are cut", () => {
  const text = 'retry: 2000\n\nid: s1\nevent: enter\ndata: {"a":\ndata: 1}\n\n: alive\n\nid: s2\n\ndata: x\n\n';
  const expected = [{ id: undefined, name: "message", data: undefined }, { id: "s1", name: "enter", data: '{"a":\n1}' }, { id: undefined, name: "message", data: undefined }, { id: "s2", name: "message", data: undefined }, { id: undefined, name: "message", data: "x" }];
  for (let cut = 0; cut <= text.length; cut += 1) {
    const parser = new EventParser();
    assert.deepEqual([...parser.take(text.slice(0, cut)), ...parser.take(text.slice(cut))], expected, String(cut));
  }
});
