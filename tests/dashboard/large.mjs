// More devices than a live query delivers: the list has its first page after one request, asks MQTT for nothing but the rows in
// sight, goes on as one scrolls, and still counts all of them.

import assert from "node:assert/strict";

import { write } from "./api.mjs";
import { require } from "./browser.mjs";

const mqtt = require("mqtt");
/** A live query has 10,000. */
const DEVICES = 10_250;
const AT_ONCE = 50;

export async function large(browser, { origin, broker }) {
  const client = await mqtt.connectAsync(broker, { clientId: "maker", protocolVersion: 5, reconnectPeriod: 0 });
  const id = (number) => `meter-${String(number).padStart(6, "0")}`;
  for (let i = 0; i < DEVICES; i += AT_ONCE) {
    const numbers = Array.from({ length: Math.min(AT_ONCE, DEVICES - i) }, (_, j) => i + j);
    await Promise.all(numbers.map((number) => client.publishAsync(`shadow/${id(number)}/update`, JSON.stringify({ state: { reported: { number } } }), { qos: 1 })));
  }
  client.end();

  const page = await browser.context.newPage();
  const asked = [];
  const delivered = new Set();
  page.on("request", (request) => asked.push(request.url().slice(origin.length)));
  page.on("websocket", (socket) =>
    socket.on("framereceived", ({ payload }) => {
      for (const [, device] of Buffer.from(payload).toString("latin1").matchAll(/shadow\/(meter-\d+)\/document/g)) delivered.add(device);
    }),
  );
  await page.goto(origin);
  await page.locator("#row-meter-000000").waitFor();
  assert.equal(asked.filter((path) => path.startsWith("/v1/search")).length, 1, `one page: ${asked.join(" ")}`);
  await page.getByText("10,250 devices", { exact: true }).waitFor();
  await page.getByText("Live", { exact: true }).waitFor();

  // What is in sight follows its device; what is not is left alone.
  await write(origin, id(0), { desired: { number: 7 } });
  await page.locator("#row-meter-000000").getByText("drifting").waitFor();
  const rows = await page.locator(".rows .row").count();
  assert.ok(delivered.size <= rows + 2, `${delivered.size} documents for ${rows} rows`);
  assert.ok(!asked.some((path) => path.startsWith("/v1/search/live")), "it would be refused");

  await page.getByRole("grid").focus();
  for (const last of [99, 199, 299]) {
    await page.keyboard.press("End");
    await page.locator(`#row-${id(last)}`).waitFor();
    // The next page is there.
    await page.locator(`#row-${id(last + 1)}`).waitFor({ state: "attached" });
  }

  // The other end comes first in the other order.
  await page.getByRole("columnheader").getByRole("button", { name: "Device" }).click();
  await page.locator(`#row-${id(DEVICES - 1)}`).waitFor();
  await page.getByRole("combobox", { name: "Query" }).fill("reported.number:<100");
  await page.getByText("100 of 10,250 devices").waitFor();
  await page.close();
}
