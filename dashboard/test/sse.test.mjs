import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import { waited } from "../src/sse.js";

// Each pause of a list that was kept fresh left a listener at the signal of the page, for hours.
test("a pause leaves nothing at its signal", async () => {
  const stop = new AbortController();
  const listeners = () => getEventListeners(stop.signal, "abort").length;
  for (let i = 0; i < 20; i += 1) await waited(0, stop.signal);
  assert.equal(listeners(), 0);
  const long = waited(1_000_000, stop.signal);
  assert.equal(listeners(), 1);
  stop.abort();
  await long;
  assert.equal(listeners(), 0);
});
