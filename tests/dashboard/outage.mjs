// The connection of the pages breaks, and things happen meanwhile: one shadow goes, another changes, a third comes. When it is
// back, the pages show what there is, as if they had been there.

import assert from "node:assert/strict";

import { call, create, read, write } from "./api.mjs";

export async function outage(browser, { origin }) {
  await create(origin, "gone", { desired: { mode: "eco" } });
  await create(origin, "kept", { reported: { mode: "eco" } });
  const cut = await cuttable(browser.context);
  const refused = (text) => /404|WebSocket/.test(text);
  // An address that nobody can read leads to the fleet.
  const fleet = await browser.tab("/#/device/%E0%A4%A", refused);
  const device = await browser.tab("/#/device/gone", refused);
  const activity = await browser.tab("/#/device/kept", refused);
  await activity.getByRole("tab", { name: "Activity" }).click();
  await activity.getByText("reported.mode = eco").waitFor();
  const live = (page) => page.getByText("Live", { exact: true }).waitFor();
  await Promise.all([fleet, device, activity].map(live));
  await fleet.getByText("2 devices", { exact: true }).waitFor();
  await device.getByText("drifting").waitFor();

  const mend = cut();
  for (const page of [fleet, device, activity]) await page.getByText("Connecting…").waitFor();
  await call(origin, "DELETE", "/v1/devices/gone/shadow", undefined, { "If-Match": "*" });
  await write(origin, "kept", { desired: { mode: "heat" } });
  await create(origin, "new", { reported: { mode: "eco" } });
  mend();
  await Promise.all([fleet, device, activity].map(live));
  await activity.getByText("desired.mode = heat").waitFor();
  await fleet.getByRole("row", { name: /new/ }).waitFor();
  await fleet.getByRole("row", { name: /gone/ }).waitFor({ state: "detached" });
  await fleet.getByRole("row", { name: /kept/ }).getByText("drifting").waitFor();
  await fleet.getByText("2 devices", { exact: true }).waitFor();
  await device.getByText("There is no shadow here").waitFor();
  await browser.shoot(device, "deleted-meanwhile");

  await oneEditAtATime(browser, { origin });
}

/** What is being edited stays as it was loaded: a restored version does not come under it. */
async function oneEditAtATime(browser, { origin }) {
  const page = await browser.tab("/#/device/kept");
  await page.getByRole("tab", { name: "History" }).click();
  const restore = page.getByRole("button", { name: "Restore this version: 1", exact: true });
  await restore.waitFor();
  await page.getByRole("button", { name: "Edit desired" }).click();
  assert.ok(await restore.isDisabled());
  await page.getByRole("button", { name: "Discard" }).click();
  await restore.click();
  await page.getByText("loaded at version 2").waitFor();
  await page.getByRole("button", { name: "Save" }).click();
  await page.locator("[data-version='3']").waitFor();
  assert.equal((await read(origin, "kept")).state.desired, undefined);
}

/** Lets the WebSockets of all pages be cut; what that returns lets them be made again. */
async function cuttable(context) {
  const open = new Set();
  let isCut = false;
  await context.routeWebSocket(/\/mqtt$/, (socket) => {
    if (isCut) return void socket.close();
    socket.connectToServer();
    open.add(socket);
  });
  return () => {
    isCut = true;
    for (const socket of open) socket.close();
    open.clear();
    return () => (isCut = false);
  };
}
