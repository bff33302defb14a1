// A thousand devices, each with its own connection, report again and again while somebody looks at them, searches, sorts
// and filters. What the table shows is what the service has.

import assert from "node:assert/strict";

import { write } from "./api.mjs";
import { require } from "./browser.mjs";

const mqtt = require("mqtt");
const DEVICES = 1000;
const ROUNDS = 5;
/** Devices that report something else than is desired. */
const DRIFTING = 40;

export async function fleet(browser, { origin, broker }) {
  const devices = await Promise.all(Array.from({ length: DEVICES }, (_, i) => connect(broker, i)));
  await Promise.all(devices.map((device) => device.report(0)));
  for (const device of devices.slice(0, DRIFTING)) await write(origin, device.id, { desired: { mode: "eco" } });

  const page = await browser.tab("/", (text) => text.includes("400"));
  await page.getByText("Live", { exact: true }).waitFor();
  await page.getByText("1,000 devices", { exact: true }).waitFor();
  const drifting = page.getByRole("button", { name: /Drifting/ });
  await drifting.getByText("40", { exact: true }).waitFor();

  // All rounds must get through to the rows in sight while everybody reports.
  const first = page.getByRole("row", { name: /sensor-0000/ });
  for (let round = 1; round <= ROUNDS; round += 1) {
    await Promise.all(devices.map((device) => device.report(round)));
    await first.getByText(String(round + 2), { exact: true }).waitFor();
  }
  const drawn = await page.getByRole("row").count();
  assert.ok(drawn < 60, `only what is in sight is drawn, not ${drawn} rows`);
  await browser.audit(page, "fleet");
  await browser.shoot(page, "fleet");
  await page.emulateMedia({ colorScheme: "dark" });
  await browser.shoot(page, "fleet-dark");
  await page.emulateMedia({ colorScheme: "light" });

  await drifting.click();
  await page.getByText("40 of 1,000 devices").waitFor();
  assert.equal(await query(page).inputValue(), "drift:true");
  // A count that moves without a request of one's own.
  await devices[0].send({ state: { reported: { mode: "eco" } } });
  await page.getByText("39 of 1,000 devices").waitFor();
  await page.getByRole("row", { name: /sensor-0000/ }).waitFor({ state: "detached" });
  await drifting.click();
  await conflicts(page, devices, origin);
  await queries(browser, page);
  await query(page).fill("SOR-099");
  await page.getByText("10 of 1,000 devices").waitFor();
  await page.getByRole("columnheader").getByRole("button", { name: "Device" }).click();
  await downwards(page, "Device").waitFor();
  await page.locator("[aria-rowindex='2']", { hasText: "sensor-0999" }).waitFor();

  await keepsItsPlace(browser, page);

  // By keyboard alone: down once, open.
  await page.getByRole("grid").focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "sensor-0998" }).waitFor();
  assert.equal(await page.title(), "sensor-0998 · Umbra");
  await page.goBack();
  await page.getByRole("heading", { name: "Fleet" }).waitFor();
  assert.equal(await query(page).inputValue(), "SOR-099", "the search is still there");
  assert.equal(await page.getByRole("grid").getAttribute("aria-activedescendant"), "row-sensor-0998", "and the row");

  await page.getByRole("link", { name: "Activity" }).click();
  await reportsUntil(devices[1], page.getByText("accepted", { exact: true }).first());
  await page.getByText("rejected", { exact: true }).first().waitFor();
  await browser.audit(page, "activity");
  await browser.shoot(page, "activity");
  await page.setViewportSize({ width: 390, height: 844 });
  await page.getByRole("button", { name: "Activity" }).click();
  await browser.shoot(page, "menu-phone");
  await page.getByRole("link", { name: "Fleet" }).click();
  await query(page).fill("");
  await page.getByText("1,000 devices", { exact: true }).waitFor();
  const fits = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
  assert.ok(fits, "nothing is wider than a phone");
  await browser.audit(page, "fleet on a phone");
  await browser.shoot(page, "fleet-phone");
  for (const device of devices) device.client.end(true);
}

/** Reports again and again until that is seen: what was decided before the view was open is not in it. */
async function reportsUntil(device, seen) {
  for (let round = ROUNDS + 1; (await seen.count()) === 0; round += 1) await device.report(round);
}

/** A stale write by a device is seen as a conflict of that device, whichever protocol it comes by. */
async function conflicts(page, devices, origin) {
  await devices[7].stale();
  const tag = '"1-00000000000000000000000000000000"';
  const headers = { "Content-Type": "application/merge-patch+json", "If-Match": tag, "Umbra-Client": "back-end" };
  const body = JSON.stringify({ reported: { mode: "off" } });
  const { status } = await fetch(`${origin}/v1/devices/sensor-0008/shadow`, { method: "PATCH", headers, body });
  assert.equal(status, 412);
  const tile = page.getByRole("button", { name: /Conflicts seen/ });
  await tile.getByText("2", { exact: true }).waitFor();
  await tile.click();
  await page.getByText("2 of 1,000 devices").waitFor();
  for (const name of [/sensor-0007/, /sensor-0008/]) await page.getByRole("row", { name }).waitFor();
  await tile.click();
  await page.getByText("1,000 devices", { exact: true }).waitFor();
}

const downwards = (page, title) => page.locator("[aria-sort=descending]", { hasText: title });

const query = (page) => page.getByRole("combobox", { name: "Query" });

/** A query by keyboard alone: completed, refused with its column, kept in the address, saved and found again. */
async function queries(browser, page) {
  await query(page).fill("");
  await page.keyboard.type("reported.mo");
  await page.getByRole("option", { name: /^reported\.mode/ }).waitFor();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.getByRole("option", { name: /^heat 999/ }).waitFor();
  await browser.audit(page, "completion");
  await browser.shoot(page, "completion");
  await page.keyboard.type("ec");
  await page.getByRole("option", { name: /^eco 1$/ }).waitFor();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Tab");
  assert.equal(await query(page).inputValue(), "reported.mode:eco");
  await page.getByText("1 of 1,000 devices").waitFor();

  await page.keyboard.type(" connected:maybe");
  await page.getByText("Column 29: expected true, false or *, for connected").waitFor();
  assert.equal(await page.locator("mark").innerText(), "m");
  assert.equal(await query(page).getAttribute("aria-invalid"), "true");
  await browser.audit(page, "an error in a query");
  await browser.shoot(page, "query-error");
  await query(page).fill("reported.mode:heat reported.room:>22");
  await page.getByText("Column 29").waitFor({ state: "detached" });

  await page.getByRole("button", { name: "Columns" }).click();
  await page.getByLabel("reported.room").check();
  await browser.audit(page, "columns");
  await page.keyboard.press("Escape");
  await page.getByRole("columnheader").getByRole("button", { name: "reported.room" }).click();
  await downwards(page, "reported.room").waitFor();
  await page.waitForFunction(() => Number(document.querySelector("[aria-rowindex='2'] [role=gridcell]:last-child")?.textContent) > 22.7);
  const address = await page.evaluate(() => location.hash);
  assert.equal(new URLSearchParams(address.slice(3)).get("sort"), "-reported.room", address);

  await page.getByRole("button", { name: "Views" }).click();
  await page.getByLabel("Name of the view").fill("Warm rooms");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Escape");
  // An address is the whole view, also in another tab.
  const other = await browser.tab(`/${address}`);
  await downwards(other, "reported.room").waitFor();
  assert.equal(await query(other).inputValue(), "reported.mode:heat reported.room:>22");
  await other.getByRole("link", { name: "Fleet" }).click();
  await other.getByText("1,000 devices", { exact: true }).waitFor();
  await other.getByRole("button", { name: "Views" }).click();
  await other.getByRole("link", { name: "Warm rooms" }).click();
  await downwards(other, "reported.room").waitFor();
  await browser.shoot(other, "saved-view");
  await other.close();
  await page.getByRole("link", { name: "Fleet" }).click();
  await page.getByText("1,000 devices", { exact: true }).waitFor();
}

/** One is where one was when one comes back from a device, and the keyboard is at that device. */
async function keepsItsPlace(browser, page) {
  await query(page).fill("");
  await page.getByText("1,000 devices", { exact: true }).waitFor();
  const before = page.viewportSize();
  const grid = page.locator("[role=grid][aria-rowcount='1001']");
  const place = async () => [await grid.evaluate((element) => element.scrollTop), await page.evaluate(() => scrollY)];
  for (const [width, height, down] of [[before.width, before.height, 0], [390, 600, 100]]) {
    await page.setViewportSize({ width, height });
    await grid.evaluate((element) => element.scrollTo(0, 20_000));
    await page.evaluate((down) => scrollTo(0, down), down);
    const row = page.locator("#row-sensor-0495");
    await row.waitFor();
    const left = await place();
    assert.ok(left[0] === 20_000 && left[1] >= down * 0.9, `it is down there: ${left}`);
    for (const back of [() => page.goBack(), () => page.getByLabel("Back to the fleet").click()]) {
      await row.click();
      await page.getByRole("heading", { name: "sensor-0495" }).waitFor();
      assert.equal(await page.evaluate(() => scrollY), 0);
      await back();
      await row.waitFor();
      assert.deepEqual(await place(), left, `${width} px`);
      assert.equal(await grid.getAttribute("aria-activedescendant"), "row-sensor-0495");
    }
  }
  await page.setViewportSize(before);
  await grid.evaluate((element) => element.scrollTo(0, 0));
  await query(page).fill("SOR-099");
  await page.getByText("10 of 1,000 devices").waitFor();
}

async function connect(broker, number) {
  const id = `sensor-${String(number).padStart(4, "0")}`;
  const client = await mqtt.connectAsync(broker, { clientId: id, protocolVersion: 5, reconnectPeriod: 0 });
  const send = (message) => client.publishAsync(`shadow/${id}/update`, JSON.stringify(message), { qos: 1 });
  return {
    id,
    client,
    send,
    report: (round) => send({ state: { reported: { mode: "heat", room: 18 + ((number * 7 + round * 3) % 50) / 10, round } } }),
    // MQTT.js throws the refusal that MQTT 5 puts into the PUBACK.
    stale: () => assert.rejects(send({ version: 1, state: { reported: { mode: "off" } } }), /version conflict|Implementation specific|131/i),
  };
}
