// A service that has no devices yet shows how to connect the first one: the commands do it as they are written. All views agree
// on which devices are connected.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { DEADLINE_MS, require } from "./browser.mjs";
import { looks } from "./looks.mjs";

const mqtt = require("mqtt");
const run = promisify(execFile);

/** Whoever signs in has the name and the password that the fixture gave him. */
const USER = "boss";

export async function first(browser, { broker }) {
  const page = await browser.tab("/", (text) => text.includes("401"));
  await page.locator("h1").waitFor();
  const isNamed = (await page.getByLabel("Name").count()) > 0;
  if (isNamed) await signIn(page);
  await page.getByRole("heading", { name: "Connect the first device" }).waitFor();
  await page.getByText("mosquitto_pub").waitFor();
  assert.ok((await page.getByText(broker.replace("mqtt://", "-h ").replace(":", " -p ")).count()) === 1, `the address is ${broker}`);
  await looks(browser, page, isNamed ? "first-device-named" : "first-device");

  const commands = await page.locator("pre").allInnerTexts();
  assert.equal(commands.length, 2);
  for (const command of commands) {
    assert.equal(command.includes("PASSWORD"), isNamed, command);
    const filled = command.replace("NAME", USER).replace("PASSWORD", `${USER}-password`);
    await run("sh", ["-c", filled.replace("curl", "curl --silent --show-error --fail")], { timeout: DEADLINE_MS });
  }
  for (const lamp of ["lamp-1", "lamp-2"]) await page.getByRole("row", { name: lamp }).waitFor();
  await page.getByText("2 devices", { exact: true }).waitFor();
  await agree(browser, page, broker, isNamed);
}

/** One that was never connected, one that was, and one that is: the list says what the page of the device says. */
async function agree(browser, page, broker, isNamed) {
  const credentials = isNamed ? { username: USER, password: `${USER}-password` } : {};
  const client = await mqtt.connectAsync(broker, { clientId: "lamp-3", protocolVersion: 5, reconnectPeriod: 0, ...credentials });
  await client.publishAsync("shadow/lamp-3/update", '{"state":{"reported":{"temperature":20}}}', { qos: 1 });
  // Who has a name is the device of that name, whatever its client's id.
  for (const [lamp, connection] of [["lamp-1", "away"], ["lamp-2", "away"], ["lamp-3", isNamed ? "away" : "connected"]]) {
    await page.getByRole("row", { name: lamp }).getByText(connection, { exact: true }).waitFor();
    const device = await browser.tab(`/#/device/${lamp}`);
    await device.locator(".title").getByText(connection, { exact: true }).waitFor();
    await device.close();
  }
  if (isNamed) return void client.end();
  // The page of a device shows it as it happens.
  await page.getByRole("link", { name: "lamp-3" }).click();
  await page.locator(".title").getByText("connected", { exact: true }).waitFor();
  client.end();
  await page.locator(".title").getByText("away", { exact: true }).waitFor();
  await page.goBack();
  await page.getByRole("row", { name: "lamp-3" }).getByText("away", { exact: true }).waitFor();
}

async function signIn(page) {
  await page.getByLabel("Name").fill(USER);
  await page.getByLabel("Password").fill(`${USER}-password`);
  await page.getByRole("button", { name: "Sign in" }).click();
}
