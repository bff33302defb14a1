// On a listener that wants to know its clients: a wrong password, a right one, the live view without another, signing out.
// What was being edited is there again for whom it was of, and for nobody else.

import assert from "node:assert/strict";

export async function signIn(browser, { origin }) {
  const refused = (text) => ["401", "403", "503"].some((status) => text.includes(status));
  const page = await browser.tab("/", refused);
  await page.getByLabel("Name").and(page.locator(":focus")).waitFor();
  await browser.audit(page, "sign-in");
  await browser.shoot(page, "sign-in");
  await enter(page, "boss", "wrong");
  await page.getByText("The name or the password is wrong.").waitFor();
  assert.equal((await browser.context.cookies()).length, 0);
  await refusals(page);

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
  await heads(browser, other);

  // Signing out in one ends both, and loses no edit of the other.
  const leave = async () => {
    await page.bringToFront();
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("Name").waitFor();
    await other.bringToFront();
    await other.getByLabel("Name").waitFor();
  };
  const text = other.getByLabel("Desired state as JSON");
  await other.getByRole("button", { name: "Edit desired" }).click();
  await text.fill('{"power":"off"}');
  await leave();
  await other.getByText("Your unsaved edit is kept").waitFor();
  await enter(other, "boss", "boss-password");
  assert.equal(await text.inputValue(), '{"power":"off"}');
  await other.getByRole("button", { name: "Save" }).click();
  await other.locator("[data-version='2']").waitFor();

  await other.getByRole("button", { name: "Edit desired" }).click();
  await text.fill('{"power":"on"}');
  await page.reload();
  await leave();
  await enter(other, "viewer-1", "viewer-1-password");
  await other.getByText("You may read this, not change it.").waitFor();
  assert.equal(await text.count(), 0, "an edit of somebody else");

  // It looked like signing out also where it failed, with the session as it was.
  const fail = (route) => (route.request().method() === "DELETE" ? route.fulfill({ status: 503, contentType: "application/problem+json", body: '{"message":"Not now"}' }) : route.fallback());
  await other.route("**/session", fail);
  await other.getByRole("button", { name: "Sign out" }).click();
  await other.getByText("You are still signed in: Not now").waitFor();
  assert.equal(await other.getByLabel("Name").count(), 0);
  await other.unroute("**/session", fail);
  await other.getByRole("button", { name: "Sign out" }).click();
  await other.getByLabel("Name").waitFor();
  const answer = await other.evaluate(() => fetch("/v1/devices", { headers: { "Umbra-Client": "dashboard" } }).then((response) => response.status));
  assert.equal(answer, 401);
}

/** Whatever the service says of why not is what the form says. */
async function refusals(page) {
  const detail = "Right, but 'boss' has no role at this listener.";
  const problem = { status: 403, contentType: "application/problem+json", body: JSON.stringify({ status: 403, message: "Forbidden", detail }) };
  const refuse = (route) => (route.request().method() === "POST" ? route.fulfill(problem) : route.fallback());
  await page.route("**/session", refuse);
  await enter(page, "boss", "boss-password");
  await page.getByText(`Forbidden: ${detail}`).waitFor();
  await page.unroute("**/session", refuse);
}

/** The head of the page is one line, on the smallest phones, too. */
async function heads(browser, page) {
  const before = page.viewportSize();
  for (const width of [390, 360, 320]) {
    await page.setViewportSize({ width, height: 780 });
    const { height, fits } = await page.evaluate(() => ({ height: document.querySelector("header").clientHeight, fits: document.documentElement.scrollWidth <= innerWidth }));
    assert.ok(height < 60 && fits, `${width} px: ${height} px high, ${fits}`);
    await browser.shoot(page, `head-${width}`);
  }
  await page.setViewportSize(before);
}

async function enter(page, name, password) {
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
}
