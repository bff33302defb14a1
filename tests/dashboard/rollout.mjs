// Without leaving the keyboard: a person finds the devices that drift, tries a change out, rolls it out to ten in waves, sees two of
// them fail and rolls it back. A bulk change after it goes to all at once.

import assert from "node:assert/strict";

import { create, read } from "./api.mjs";
import { require } from "./browser.mjs";
import { looks } from "./looks.mjs";

const mqtt = require("mqtt");
const DRIFTING = 10;
const CALM = 3;
/** Devices that receive the change and do nothing about it. */
const STUCK = ["pump-3", "pump-7"];
const TABS_MAX = 120;

export async function rollout(browser, { origin, broker }) {
  const pumps = Array.from({ length: DRIFTING }, (_, i) => `pump-${i}`);
  for (const id of pumps) await create(origin, id, { desired: { mode: "eco", interval: 60 }, reported: { mode: "off", interval: 60 } });
  for (let i = 0; i < CALM; i += 1) await create(origin, `calm-${i}`, { desired: { mode: "eco" }, reported: { mode: "eco" } });
  const devices = await Promise.all(pumps.filter((id) => !STUCK.includes(id)).map((id) => obedient(broker, id)));

  const page = await browser.tab();
  await page.getByText("13 devices", { exact: true }).waitFor();
  await tabTo(page, page.getByRole("combobox", { name: "Query" }));
  await page.keyboard.type("drift:true");
  await page.keyboard.press("Enter");
  await page.getByText("10 of 13 devices").waitFor();
  // The form has the query from there.
  await tabTo(page, page.getByRole("link", { name: "Change these" }), "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "New rollout" }).waitFor();
  assert.equal(await page.getByRole("combobox", { name: "Query" }).inputValue(), "drift:true");
  await fill(browser, page);
  await tryOut(browser, page, origin);

  await page.getByText("running", { exact: true }).first().waitFor();
  await page.getByText("completed", { exact: true }).waitFor();
  const chip = (name) => page.getByRole("button", { name });
  await chip("Converged 8").waitFor();
  await tabTo(page, chip("Timed out 2"));
  await page.keyboard.press("Enter");
  for (const id of STUCK) await page.getByRole("row", { name: id }).getByText("Timed out").waitFor();
  assert.equal(await page.getByRole("row").count(), 1 + STUCK.length);
  await looks(browser, page, "rollout");
  for (const id of pumps) assert.equal((await read(origin, id)).state.desired.interval, 30, id);

  await tabTo(page, page.getByRole("button", { name: "Roll back" }), "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Roll back this rollout?" }).waitFor();
  await tabTo(page, page.getByRole("dialog").getByRole("button", { name: "Roll back" }));
  await page.keyboard.press("Enter");
  await page.getByText("rolled-back", { exact: true }).waitFor();
  for (const id of pumps) assert.deepEqual((await read(origin, id)).state.desired, { mode: "eco", interval: 60 }, id);
  await chip("Rolled back 10").waitFor();
  await pauses(page);
  await bulk(browser, page, origin);
  await page.goto(`${origin}/#/rollouts`);
  await page.getByRole("row", { name: /interval-30/ }).getByText("rolled-back").waitFor();
  await looks(browser, page, "rollouts");
  for (const device of devices) device.end(true);
}

async function fill(browser, page) {
  await tabTo(page, page.getByLabel("Merged into desired"));
  await page.keyboard.press("Control+A");
  await page.keyboard.type('{"interval": ');
  await tabTo(page, page.getByLabel("Name"));
  await page.keyboard.press("Control+A");
  await page.keyboard.type("interval-30");
  await tabTo(page, page.getByLabel("Devices reached in all by each wave"));
  await page.keyboard.press("Control+A");
  await page.keyboard.type("2, 50%");
  await tabTo(page, page.getByLabel("Seconds until it has failed"));
  await page.keyboard.press("Control+A");
  await page.keyboard.type("2");
  await page.keyboard.press("Enter");
  await page.getByText("2 fields are not complete.").waitFor();
  await page.getByText("the last wave is 100%").waitFor();
  await looks(browser, page, "rollout-incomplete");
  await tabTo(page, page.getByLabel("Merged into desired"), "Shift+Tab");
  await page.keyboard.press("Control+End");
  await page.keyboard.type("30}");
  await tabTo(page, page.getByLabel("Devices reached in all by each wave"));
  await page.keyboard.press("End");
  await page.keyboard.type(", 100%");
}

async function tryOut(browser, page, origin) {
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "10 devices in 3 waves: 2, 5, 10" }).waitFor();
  await page.getByText("10 would change").waitFor();
  assert.equal((await read(origin, "pump-0")).state.desired.interval, 60, "nothing is changed by trying");
  await looks(browser, page, "rollout-tried");
  await tabTo(page, page.getByRole("button", { name: "Change 10 devices" }));
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "interval-30" }).waitFor();
}

/** One that begins paused goes on when it is resumed, and is cancelled. */
async function pauses(page) {
  await page.getByLabel("Back to the rollouts").click();
  await page.getByRole("link", { name: "New rollout" }).click();
  await page.getByRole("combobox", { name: "Query" }).fill("device:calm-*");
  await page.getByLabel("Merged into desired").fill('{"level": 1}');
  await page.getByLabel("Begin paused").check();
  await page.getByRole("button", { name: "Try out" }).click();
  await page.getByRole("button", { name: "Change 3 devices" }).click();
  await page.getByText("paused", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Queued 3" }).waitFor();
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByRole("button", { name: "Sent 3" }).waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText("paused", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  await page.getByText("cancelled", { exact: true }).waitFor();
}

async function bulk(browser, page, origin) {
  await page.goto(`${origin}/#/rollouts/new`);
  await page.getByLabel("Of a list").check();
  await page.getByLabel("Device ids").fill("calm-0 calm-1 nobody");
  await page.getByLabel("Merged into the tags").fill('{"seen": true}');
  await page.getByLabel("Only where these are so").fill("/tags/seen absent");
  await page.getByLabel("All at once").check();
  await page.getByRole("button", { name: "Try out" }).click();
  await page.getByText("2 would change").waitFor();
  await page.getByText("1 have no such shadow").waitFor();
  await page.getByRole("button", { name: "Change 3 devices" }).click();
  await page.getByText("completed", { exact: true }).waitFor();
  await page.getByRole("row", { name: "nobody" }).getByText("Skipped").waitFor();
  for (const id of ["calm-0", "calm-1"]) assert.deepEqual((await read(origin, id)).state.tags, { seen: true });
}

/** A device that does what is desired of it. */
async function obedient(broker, id) {
  const client = await mqtt.connectAsync(broker, { clientId: id, protocolVersion: 5, reconnectPeriod: 0 });
  client.on("message", (_, payload) => {
    const { interval } = payload.length > 0 ? JSON.parse(payload.toString()).state : {};
    if (interval !== undefined) client.publish(`shadow/${id}/update`, JSON.stringify({ state: { reported: { interval } } }), { qos: 1 });
  });
  await client.subscribeAsync(`shadow/${id}/delta`, { qos: 1 });
  return client;
}

/** Presses Tab until `target` has the keyboard. */
async function tabTo(page, target, key = "Tab") {
  await target.waitFor();
  for (let i = 0; i < TABS_MAX; i += 1) {
    if (await target.evaluate((element) => element === document.activeElement)) return;
    await page.keyboard.press(key);
  }
  throw new Error(`no Tab leads to ${target}`);
}
