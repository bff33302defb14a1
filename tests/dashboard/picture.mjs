// The picture of the dashboard in the documentation: a fleet that is live. `dashboard/picture` starts that and runs this.

import { call, write } from "./api.mjs";

/** Conflicts that the picture shows at least. */
const CONFLICTS = 8;

export async function picture(browser, { origin }) {
  const page = await browser.tab();
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.getByText("Live", { exact: true }).waitFor();
  await page.getByText("36 devices", { exact: true }).waitFor();
  // Some are not there at the moment, and will learn later that they should be different.
  for (const room of ["cellar", "garage", "attic"]) {
    await call(origin, "PUT", `/v1/devices/sensor-${room}/shadow`, { reported: { temperature: 14.5, interval: 60 } }, { "If-None-Match": "*", "Content-Type": "application/json" });
    await write(origin, `sensor-${room}`, { desired: { interval: 30 } });
  }
  const conflicts = page.getByRole("button", { name: /Conflicts seen/ }).locator("b");
  await page.waitForFunction(([element, least]) => Number(element.textContent.replace(",", "")) >= least, [await conflicts.elementHandle(), CONFLICTS]);
  await page.getByRole("row", { name: "sensor-cellar" }).getByText("away").waitFor();
  await browser.shoot(page, "picture");
}
