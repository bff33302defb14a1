// The page of a device: a person creates it, tags it, looks where it is connected from, filters its history, compares its numbers
// with what is desired, copies commands that do what they say, and deletes it.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { call, read, write } from "./api.mjs";
import { DEADLINE_MS, require } from "./browser.mjs";
import { looks } from "./looks.mjs";

const mqtt = require("mqtt");
const run = promisify(execFile);

export async function device(browser, { origin, broker }) {
  const page = await browser.tab("/", (text) => /404|412/.test(text));
  await page.getByRole("button", { name: "Create a device here" }).click();
  await create(page);
  await looks(browser, page, "device-created");
  const client = await mqtt.connectAsync(broker, { clientId: "pump-1", protocolVersion: 5, reconnectPeriod: 0 });
  for (const flow of [1, 2.5, 4]) await client.publishAsync("shadow/pump-1/update", JSON.stringify({ state: { reported: { flow, mode: "on" } } }), { qos: 1 });
  await page.locator(".facts").getByText("127.0.0.1").waitFor();
  await page.locator(".facts").getByText("mqtt-5").waitFor();

  await tags(page, origin);
  await write(origin, "pump-1", { desired: { flow: 5 } });
  await filters(page);
  await charts(browser, page);
  await commands(browser, page, origin);
  await names(page);
  client.end();
  await page.locator(".facts").getByText("Last seen").waitFor();
  await remove(page, origin);
}

async function create(page) {
  const dialog = page.getByRole("dialog");
  await page.getByLabel("Device id").fill("pump-1");
  await page.getByLabel("Desired, as JSON").fill('{"flow": 3, "flow": 4}');
  await dialog.getByRole("button", { name: "Create" }).click();
  await dialog.getByText('Desired: The key "flow" is there twice.').waitFor();
  await page.getByLabel("Desired, as JSON").fill('{"flow": 3, "mode": "on"}');
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "pump-1" }).waitFor();
  await page.locator("[data-version='1']").waitFor();
}

async function tags(page, origin) {
  await page.getByRole("button", { name: "Edit tags" }).click();
  await page.getByLabel("Tags as JSON").fill('{"region": "west"}');
  await page.getByRole("button", { name: "Save" }).click();
  await page.locator(".tags").getByText("west").waitFor();
  assert.deepEqual((await read(origin, "pump-1")).state.tags, { region: "west" });
}

async function filters(page) {
  await page.getByRole("tab", { name: "History" }).click();
  const versions = page.locator(".history .stamp b");
  await page.getByText("v6", { exact: true }).waitFor();
  await page.getByLabel("Section").selectOption("tags");
  await page.getByText("1 of 6 versions read").waitFor();
  assert.deepEqual(await versions.allInnerTexts(), ["v5"]);
  await page.getByLabel("Section").selectOption("reported");
  await page.getByLabel("Writer").fill("PUMP");
  await page.getByText("3 of 6 versions read").waitFor();
  assert.deepEqual(await versions.allInnerTexts(), ["v4", "v3", "v2"]);
  await page.getByLabel("Writer").fill("nobody");
  await page.getByText("0 of 6 versions read").waitFor();
}

async function charts(browser, page) {
  await page.getByRole("tab", { name: "Charts" }).click();
  const chart = page.getByRole("img", { name: "flow: now 4, desired 5, lowest 1, highest 4, 3 values" });
  await chart.waitFor();
  await page.getByText("Everything that is kept is read.").waitFor();
  await chart.focus();
  await page.keyboard.press("Home");
  const figure = page.locator("figure").filter({ has: chart });
  await figure.locator("figcaption b.num").getByText("1", { exact: true }).waitFor();
  await page.getByLabel("Range").selectOption("900");
  await chart.waitFor();
  await looks(browser, page, "device-charts");
}

/** The commands do what they say. */
async function commands(browser, page, origin) {
  await page.getByRole("tab", { name: "JSON" }).click();
  assert.equal(await page.evaluate(() => location.hash), "#/device/pump-1?tab=json");
  await looks(browser, page, "device-json");
  const texts = await page.locator("pre").allInnerTexts();
  assert.equal(JSON.parse(texts[0]).version, 6);
  const [get, patch, publish] = texts.slice(1).map((text) => text.replace("curl", "curl --silent --show-error --fail"));
  const sh = (command) => run("sh", ["-c", command], { timeout: DEADLINE_MS });
  assert.equal(JSON.parse((await sh(get)).stdout).version, 6);
  for (const [command, version] of [[patch.replace('"flow":5', '"flow":6'), 7], [publish.replace('"flow":5', `"flow":7,"it":"a"`), 7]]) {
    await sh(command);
    assert.equal((await read(origin, "pump-1")).version, version, command);
  }
  // The one of MQTT was for a version at which somebody else has changed the same since.
  assert.equal((await read(origin, "pump-1")).state.desired.flow, 6);

  await page.getByRole("tab", { name: "State" }).click();
  await page.getByRole("button", { name: "Edit desired" }).click();
  await page.getByLabel("Desired state as JSON").fill(`{"flow": 6, "mode": "on", "note": "it's"}`);
  await browser.context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.getByRole("button", { name: "Copy: the edit as curl" }).click();
  await page.getByText("Copied").waitFor();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  await sh(copied.replace("curl", "curl --silent --show-error --fail"));
  assert.equal((await read(origin, "pump-1")).state.desired.note, "it's");
  await page.getByRole("button", { name: "Discard" }).click();
  await keys(page, origin);
}

/** Ctrl+Enter with a mistake closed the editor, and what was typed was lost. */
async function keys(page, origin) {
  const { version } = await read(origin, "pump-1");
  const text = page.getByLabel("Desired state as JSON");
  await page.getByRole("button", { name: "Edit desired" }).click();
  await text.press("Control+Enter");
  await page.getByText("No changes yet").waitFor();
  await text.fill('{"flow": 6,, "mode": "off"}');
  await text.press("Control+Enter");
  await page.getByText(/This is not JSON yet/).waitFor();
  assert.equal(await text.inputValue(), '{"flow": 6,, "mode": "off"}');
  await text.fill(`{"flow": 6, "mode": "on", "note": "it's", "keys": true}`);
  await text.press("Control+Enter");
  await page.locator(`[data-version='${version + 1}']`).waitFor();
  await text.waitFor({ state: "detached" });
}

async function names(page) {
  await page.getByRole("button", { name: "Add a shadow" }).click();
  await page.getByLabel("Name of the shadow").fill("wifi");
  await page.getByRole("dialog").getByRole("button", { name: "Create" }).click();
  await page.getByRole("link", { name: "wifi" }).waitFor();
  assert.equal(await page.title(), "pump-1 · wifi · Umbra");
}

async function remove(page, origin) {
  await page.getByRole("button", { name: "Delete" }).click();
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Delete" }).click();
  await page.getByLabel("Delete 2 shadows: the whole device").check();
  // What changes after the question is kept: it read each shadow only when it was answered, and deleted it as it was then.
  const dialog = page.getByRole("dialog");
  const answer = () => dialog.getByRole("button", { name: "Delete" }).click();
  await write(origin, "pump-1", { desired: { flow: 8 } });
  await answer();
  await dialog.getByText("1 of 2 shadows deleted. Not deleted: The classic shadow: it was changed since this question was asked.").waitFor();
  assert.equal((await read(origin, "pump-1")).state.desired.flow, 8);
  await dialog.getByRole("button", { name: "Keep" }).click();
  // One that is gone already is deleted.
  await page.evaluate(() => (location.hash = "#/device/pump-1"));
  await page.getByRole("button", { name: "Delete" }).click();
  await dialog.getByText(/at version/).waitFor();
  await call(origin, "DELETE", "/v1/devices/pump-1/shadow", undefined, { "If-Match": "*" });
  await answer();
  await page.getByRole("heading", { name: "Connect the first device" }).waitFor();
  for (const path of ["shadow", "shadows/wifi"]) assert.equal((await fetch(`${origin}/v1/devices/pump-1/${path}`)).status, 404);
}
