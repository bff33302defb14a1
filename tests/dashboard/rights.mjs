// A user without the right to write is offered no way to; a reader of a part sees nothing of the rest.

import assert from "node:assert/strict";

const LAMP = { desired: { limit: 20, mode: "eco" }, reported: { limit: 20, mode: "eco", temperature: 19 } };

export async function rights(browser, { origin }) {
  const page = await browser.tab("/#/device/lamp-1", (text) => /401|403|404/.test(text));
  await enter(page, "boss");
  await page.getByText("Editing desired creates it.").waitFor();
  const made = await page.evaluate((state) => fetch("/v1/devices/lamp-1/shadow", {
    method: "PUT",
    headers: { "If-None-Match": "*", "Content-Type": "application/json" },
    body: JSON.stringify(state),
  }).then((response) => response.status), LAMP);
  assert.equal(made, 201);
  await page.getByText("in sync", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Edit desired" }).click();
  await page.getByLabel("Desired state as JSON").fill('{"limit": 20, "mode": "heat"}');
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByText("drifting", { exact: true }).waitFor();
  await page.getByLabel("Back to the fleet").click();
  await page.getByRole("button", { name: "Create a device" }).waitFor();
  await page.goBack();
  await leave(page);

  await enter(page, "viewer-1");
  await page.getByText("You may read this, not change it.").waitFor();
  await page.getByRole("tab", { name: "History" }).click();
  await page.getByText("v1", { exact: true }).waitFor();
  assert.equal(await page.getByRole("button", { name: /Edit|Restore/ }).count(), 0);
  await page.getByLabel("Back to the fleet").click();
  await page.getByRole("row", { name: /lamp-1/ }).waitFor();
  await page.getByRole("button", { name: /Connected/ }).getByText("0", { exact: true }).waitFor();
  assert.equal(await page.getByText("Create a device").count(), 0);
  await page.goBack();
  await page.getByText("v1", { exact: true }).waitFor();
  await browser.audit(page, "a viewer's device");
  await browser.shoot(page, "viewer");
  await leave(page);

  // May read /desired/limit and /reported/temperature, and write the former.
  await enter(page, "contractor");
  // The tab is in the address.
  assert.equal(await page.getByRole("tab", { name: "History" }).getAttribute("aria-selected"), "true");
  await page.getByRole("tab", { name: "State" }).click();
  await page.getByText("partly visible", { exact: true }).waitFor();
  const limit = page.getByRole("row", { name: /^limit/ });
  await limit.getByText("not visible").waitFor();
  assert.equal(await page.getByText("differs").count(), 0);
  // May write nothing of the tags, and not all of the shadow.
  await page.getByRole("button", { name: "Edit desired" }).and(page.locator(":enabled")).waitFor();
  for (const name of ["Edit tags", "Delete"]) assert.equal(await page.getByRole("button", { name }).count(), 0, name);
  await browser.audit(page, "a part of a device");
  await browser.shoot(page, "partly-visible");
  await page.getByRole("button", { name: "Edit desired" }).click();
  await page.getByLabel("Desired state as JSON").fill('{"limit": 25}');
  await page.getByRole("button", { name: "Save" }).click();
  await limit.getByText("25", { exact: true }).waitFor();
}

async function enter(page, name) {
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Password").fill(`${name}-password`);
  await page.getByRole("button", { name: "Sign in" }).click();
}

async function leave(page) {
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Name").waitFor();
}
