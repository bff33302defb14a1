// The pages of an operator: a session is looked at and ended, a retained message read and cleared, topics tried out over WebSocket,
// the use of limits and the state of the service read. All of it by the keyboard or a click, on a phone, too.

import assert from "node:assert/strict";

import { call } from "./api.mjs";
import { require } from "./browser.mjs";
import { looks } from "./looks.mjs";

const mqtt = require("mqtt");

export async function operate(browser, { origin, broker }) {
  const connect = (clientId, more) => mqtt.connectAsync(broker, { clientId, protocolVersion: 5, reconnectPeriod: 0, ...more });
  const lasting = { clean: false, properties: { sessionExpiryInterval: 3600 } };
  const client = await connect("hall/1", lasting);
  const other = await connect("door", lasting);
  await client.subscribeAsync(["house/#", "shadow/+/document"], { qos: 1 });
  await other.subscribeAsync("door/+", { qos: 1 });
  await other.endAsync();
  await client.publishAsync("door/1", "open", { qos: 1 });
  await client.publishAsync("house/light", '{"on":true}', { qos: 1, retain: true });
  await client.publishAsync("house/blob", Buffer.from([0, 255, 16]), { retain: true, qos: 1 });

  const page = await browser.tab("/#/clients", (text) => text.includes("404"));
  await clients(browser, page, origin, client);
  await retained(browser, page, origin);
  await tester(browser, page, origin);
  await access(browser, page);
  await about(browser, page);
  await log(browser, page, origin, connect);
}

async function clients(browser, page, origin, client) {
  const row = page.getByRole("row", { name: /hall\/1/ });
  await row.getByText("connected", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Filters of hall/1" }).click();
  await page.getByText("shadow/+/document").waitFor();
  await looks(browser, page, "clients");
  await page.getByLabel("Connection").selectOption("false");
  await page.getByText("1 session", { exact: true }).waitFor();
  await page.getByRole("row", { name: /door/ }).getByRole("cell", { name: "1", exact: true }).first().waitFor();
  await page.getByLabel("Connection").selectOption("");
  const gone = new Promise((resolve) => client.once("close", resolve));
  await page.getByRole("button", { name: "Disconnect hall/1" }).click();
  await page.getByRole("radio", { name: "End this session" }).and(page.locator(":checked")).waitFor();
  await looks(browser, page, "disconnect");
  await page.getByRole("dialog").getByRole("button", { name: "Disconnect" }).click();
  await gone;
  await row.waitFor({ state: "detached" });
  const { sessions } = await call(origin, "GET", "/v1/sessions");
  assert.ok(!sessions.some(({ client }) => client === "hall/1"), JSON.stringify(sessions));
}

async function retained(browser, page, origin) {
  await page.getByRole("link", { name: "Retained" }).click();
  await page.getByRole("button", { name: "Payload of house/blob" }).click();
  await page.getByText("00 ff 10").waitFor();
  await page.getByRole("button", { name: "Payload of house/light" }).click();
  await page.getByText('"on": true').waitFor();
  await looks(browser, page, "retained");
  await page.keyboard.press("/");
  await page.keyboard.type("house/b");
  await page.getByText("1 topic", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Clear house/blob" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Clear" }).click();
  await page.getByText("No topic has a retained message.").waitFor();
  const { retained } = await call(origin, "GET", "/v1/retained");
  assert.deepEqual(retained.map(({ topic }) => topic), ["house/light"]);
}

async function tester(browser, page, origin) {
  await page.getByRole("link", { name: "MQTT", exact: true }).click();
  await looks(browser, page, "mqtt-connect");
  await page.getByLabel("Client id").fill("tester");
  await page.getByRole("button", { name: "Connect" }).click();
  await page.getByText("connected as tester", { exact: true }).first().waitFor();
  await page.getByLabel("Filter").fill("a/#/b");
  await page.getByRole("button", { name: "Subscribe" }).click();
  await page.getByText("A # is the last level of a filter, alone.").waitFor();
  await page.getByLabel("Filter").fill("house/+");
  await page.keyboard.press("Enter");
  const lines = page.getByRole("log", { name: "Messages" }).getByRole("listitem");
  await lines.filter({ hasText: "house/light" }).getByText("retained").waitFor();
  await page.getByLabel("Topic").fill("house/door");
  await page.getByLabel("Payload").fill("open");
  await page.getByLabel("Payload").press("Control+Enter");
  await lines.filter({ hasText: "acknowledged" }).waitFor();
  await lines.filter({ hasText: "received" }).filter({ hasText: "house/door" }).waitFor();
  // It is refused, and says why.
  await page.getByLabel("Topic").fill("shadow/nothing");
  await page.getByRole("button", { name: "Publish" }).click();
  await lines.filter({ hasText: "shadow/nothing" }).getByText(/Not authorized|Topic Name invalid|144|135/i).waitFor();
  await looks(browser, page, "mqtt");
  // It goes on while one looks elsewhere.
  await page.getByRole("link", { name: "Fleet" }).click();
  await call(origin, "POST", "/topics/house%2Fbell?qos=1", "ring");
  await page.getByRole("link", { name: "MQTT", exact: true }).click();
  await lines.filter({ hasText: "house/bell" }).waitFor();
  await page.getByRole("button", { name: "Unsubscribe from house/+" }).click();
  await page.getByText("house/+", { exact: true }).waitFor({ state: "detached" });
  await call(origin, "DELETE", "/v1/sessions/anonymous%2Ftester/tester");
  await page.getByText("not connected").waitFor();
  await page.getByRole("button", { name: "Connect" }).waitFor();
}

async function access(browser, page) {
  await page.getByRole("link", { name: "Access" }).click();
  await page.locator("dd", { hasText: /^admin$/ }).waitFor();
  await page.locator("summary", { hasText: /^admin$/ }).click();
  await page.locator("dt", { hasText: "Administers" }).first().waitFor();
  await page.getByText("There are no users with passwords.").waitFor();
  await page.getByLabel("Principal").fill("anonymous/door");
  await page.keyboard.press("Enter");
  await page.getByRole("region", { name: "Limits of anonymous/door" }).waitFor();
  await looks(browser, page, "access");
}

async function about(browser, page) {
  await page.getByRole("link", { name: "About" }).click();
  await page.getByText("ready", { exact: true }).waitFor();
  for (const figure of ["Shadows", "MQTT sessions, connected", "MQTT sessions, disconnected"]) await page.locator("dt", { hasText: figure }).waitFor();
  await looks(browser, page, "about");
}

/** What happens to a device, as it happens: connections, updates of all its shadows, rejections. */
async function log(browser, page, origin, connect) {
  await page.goto(`${origin}/#/device/gate?tab=activity`);
  await page.getByText("There is no shadow here.").waitFor();
  let gate = await connect("gate");
  await gate.publishAsync("shadow/gate/update", '{"state":{"reported":{"open":true}}}', { qos: 1 });
  await gate.publishAsync("shadow/gate/name/motor/update", '{"state":{"reported":{"rpm":5}}}', { qos: 1 });
  const line = (text) => page.locator(".feed li").filter({ hasText: text });
  await line("open = true").waitFor();
  await line("rpm = 5").getByRole("link", { name: "motor" }).waitFor();
  await assert.rejects(gate.publishAsync("shadow/gate/name/motor/update", '{"state":{"reported":{"rpm":6}},"version":9}', { qos: 1 }));
  await line("Version conflict").waitFor();
  await gate.endAsync();
  await line("disconnected").waitFor();
  gate = await connect("gate");
  await gate.publishAsync("shadow/gate/update", '{"state":{"reported":{"open":false}}}', { qos: 1 });
  await page.locator(".feed li .badge").getByText("connected", { exact: true }).first().waitFor();
  await looks(browser, page, "device-log");
  await page.getByLabel("Events").selectOption("connections");
  await line("open = true").waitFor({ state: "detached" });
  await gate.endAsync();
}
