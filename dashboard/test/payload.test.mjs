import assert from "node:assert/strict";
import { test } from "node:test";

import { samples } from "../src/metrics.js";
import { briefText, bytesOf, filterProblem, payloadText, topicProblem } from "../src/payload.js";

const bytes = (text) => new TextEncoder().encode(text);

test("a payload is shown as what it is", () => {
  for (const [payload, kind, text] of [
    [bytes(""), "empty", ""],
    [bytes("on"), "text", "on"],
    [bytes("zwölf\n\t"), "text", "zwölf\n\t"],
    [bytes("21.5"), "text", "21.5"],
    [bytes('{"a":[1]}'), "json", '{\n  "a": [\n    1\n  ]\n}'],
    [bytes('{"a":'), "text", '{"a":'],
    [bytesOf("AP8B"), "bytes", "00 ff 01"],
    [bytes("\u0007"), "bytes", "07"],
    [new Uint8Array(600).fill(255), "bytes", `${"ff ".repeat(512)}… and 88 more`],
  ]) {
    assert.deepEqual(payloadText(payload), { kind, text });
  }
});

// The page of the MQTT client kept 500 payloads of up to 16 MiB, and made the text of each anew with every message.
test("a log keeps the beginning of a large payload", () => {
  const large = 16 * 1024 * 1024;
  for (const [payload, text] of [
    [bytes('{"a":1}'), '{\n  "a": 1\n}'],
    [bytes("a".repeat(65_536)), "a".repeat(65_536)],
    [bytes("a".repeat(large)), `${"a".repeat(65_536)} … and ${large - 65_536} more bytes`],
    // A character that is cut in two is left out.
    [bytes(`a${"ö".repeat(40_000)}`), `a${"ö".repeat(32_767)} … and 14465 more bytes`],
    [new Uint8Array(large).fill(255), `${"ff ".repeat(512)}… and 65024 more … and ${large - 65_536} more bytes`],
    // White space would make it two thousand times as long.
    [bytes("[".repeat(2000) + "]".repeat(2000)), "[".repeat(2000) + "]".repeat(2000)],
  ]) {
    assert.equal(briefText(payload), text);
  }
});

test("topics and filters that MQTT refuses are named before they are sent", () => {
  for (const topic of ["a", "a/b", "/", "shadow/x/update"]) assert.equal(topicProblem(topic), "", topic);
  for (const topic of ["", "a/+", "#", "a\u0000", "a".repeat(70_000)]) assert.notEqual(topicProblem(topic), "", topic.slice(0, 9));
  for (const filter of ["#", "+", "a/+/b", "+/#", "a//b", "$share/g/a/#"]) assert.equal(filterProblem(filter), "", filter);
  for (const filter of ["", "a#", "#/a", "a+", "a/+b/c", "a\n"]) assert.notEqual(filterProblem(filter), "", filter);
});

test("samples are found by name and labels", () => {
  const found = samples('# HELP a b\na 1\nb{x="1 2",y="}"} 2.5e3\n\nbroken\nc NaN\n');
  assert.deepEqual([found.get("a"), found.get('b{x="1 2",y="}"}'), found.size], [1, 2500, 3]);
});
