// A page at both widths and in both colour schemes: nothing is wider than a phone, and axe-core finds nothing serious.

import assert from "node:assert/strict";

const PHONE = { width: 390, height: 844 };

/** Audits and shoots `page` as it is. */
export async function looks(browser, page, name) {
  const before = page.viewportSize();
  await browser.audit(page, name);
  await browser.shoot(page, name);
  await page.setViewportSize(PHONE);
  const wide = await page.evaluate(() => [...document.querySelectorAll("body *")].filter((element) => element.getBoundingClientRect().right > innerWidth + 1).slice(-1).map((element) => element.outerHTML.slice(0, 200)));
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name}: nothing is wider than a phone, but ${wide}`);
  await browser.audit(page, `${name} on a phone`);
  await browser.shoot(page, `${name}-phone`);
  await page.emulateMedia({ colorScheme: "dark" });
  await browser.shoot(page, `${name}-phone-dark`);
  await page.setViewportSize(before);
  await browser.shoot(page, `${name}-dark`);
  await page.emulateMedia({ colorScheme: "light" });
}
