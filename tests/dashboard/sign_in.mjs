// On a listener that wants to know its clients: a wrong password, a right one, the live view without another, signing out.

import assert from "node:assert/strict";

export async function signIn(browser, { origin }) {
  const refused = (text) => text.includes("401") || text.includes("403");
  const page = await browser.tab("/", refused);
  await page.getByLabel("Name").waitFor();
  await browser.audit(page, "sign-in");
  await browser.shoot(page, "sign-in");
  await enter(page, "boss", "wrong");
  await page.getByText("The name or the password is wrong.").waitFor();
  assert.equal((await browser.context.cookies()).length, 0);

  await enter(page, "boss", "boss-password");
  await page.getByText("Live", { exact: true }).waitFor();
  const [cookie, ...others] = await browser.context.cookies();
  assert.deepEqual(others, []);
  assert.deepEqual([cookie.name, cookie.httpOnly, cookie.sameSite, cookie.path], ["umbra-session", true, "Strict", "/"]);
  const kept = await page.evaluate(() => JSON.stringify([document.cookie, { ...localStorage }, { ...sessionStorage }]));
  assert.ok(!kept.includes("boss-password") && !kept.includes(cookie.value), `no script sees either: ${kept}`);

  // Another tab is signed in too, writes under that name, and hears of it.
  const other = await browser.tab("/#/device/lamp-1", (text) => refused(text) || text.includes("404"));
  await other.getByText("There is no shadow here.").waitFor();
  await other.getByRole("button", { name: "Edit desired" }).click();
  await other.getByLabel("Desired state as JSON").fill('{"power":"on"}');
  await other.getByRole("button", { name: "Save" }).click();
  await other.getByText(/^boss · /).waitFor();

  // Signing out in one ends both.
  await page.bringToFront();
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Name").waitFor();
  await other.bringToFront();
  await other.getByLabel("Name").waitFor();
  const answer = await other.evaluate(() => fetch("/v1/devices", { headers: { "Umbra-Client": "dashboard" } }).then((response) => response.status));
  assert.equal(answer, 401);
}

async function enter(page, name, password) {
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
}
