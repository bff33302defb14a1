// Two tabs load the same version. Each changes a field of its own, and both the same one. The second is asked about that
// one alone, and everything else of both is there in the end.

import assert from "node:assert/strict";

import { call, create, read, write } from "./api.mjs";

const LAMP = { target: 20, mode: "heat", level: 3, schedule: { from: "06:00", to: "22:00" }, zones: ["hall"] };

export async function merge(browser, { origin }) {
  await create(origin, "lamp-1", { desired: LAMP, reported: { target: 19, mode: "heat", level: 3, room: 18.5 }, tags: { owner: "hall" } });
  const refusal = (text) => text.includes("412") || text.includes("413");
  const first = await browser.tab("/#/device/lamp-1", refusal);
  const second = await browser.tab("/#/device/lamp-1", refusal);
  for (const page of [first, second]) {
    await page.getByText("Live", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Edit desired" }).click();
    await page.getByText("loaded at version 1").waitFor();
    const text = page.getByLabel("Desired state as JSON").and(page.locator(":focus"));
    assert.deepEqual(await text.evaluate((area) => [area.selectionStart, area.scrollTop]), [0, 0], "one begins at the top");
  }
  await mistakes(first);

  await edit(first, { ...LAMP, target: 21, mode: "eco" });
  await first.bringToFront();
  await first.getByRole("button", { name: "Save" }).click();
  await first.locator("[data-version='2']").waitFor();
  // The keyboard is where it was before.
  await first.getByRole("button", { name: "Edit desired" }).and(first.locator(":focus")).waitFor();

  // The device goes on meanwhile; that is no conflict.
  await write(origin, "lamp-1", { reported: { room: 19.5 } });
  await second.bringToFront();
  await second.locator("[data-version='3']").waitFor();
  const { zones: _, ...without } = LAMP;
  await edit(second, { ...without, target: 23, level: 7, schedule: { from: "06:00", to: "21:00" } });
  await second.getByText("changed meanwhile to 21").waitFor();
  await browser.shoot(second, "editor");
  await second.getByRole("button", { name: "Save", exact: true }).click();

  const dialog = second.getByRole("dialog");
  await dialog.getByText("1 field changed while you were editing").waitFor();
  const fields = await dialog.locator("[data-path]").evaluateAll((all) => all.map((field) => field.dataset.path));
  assert.deepEqual(fields, ["/target"], "what collides, and only that");
  const ways = await dialog.locator("[data-path='/target'] code").allInnerTexts();
  assert.deepEqual(ways, ["20", "23", "21"], "base, mine, theirs");
  assert.ok(await dialog.getByRole("button", { name: "Choose for 1 field" }).isDisabled());
  assert.equal((await read(origin, "lamp-1")).version, 3, "nothing is saved before one has chosen");
  await browser.audit(second, "merge view");
  await dialog.getByLabel("Mine").check();
  await browser.shoot(second, "merge");
  await second.emulateMedia({ colorScheme: "dark" });
  await browser.shoot(second, "merge-dark");
  await second.emulateMedia({ colorScheme: "light" });

  // Somebody is quicker once more, with another field: one is asked about that. What one has decided is one's own, and of
  // the others no more.
  await write(origin, "lamp-1", { desired: { level: 5 } });
  await dialog.getByRole("button", { name: "Save merged" }).click();
  await dialog.getByText("onto version 4").waitFor();
  const paths = await dialog.locator("[data-path]").evaluateAll((all) => all.map((field) => field.dataset.path));
  assert.deepEqual(paths, ["/level"]);
  const listed = async (title) => dialog.locator(".rest > div").filter({ hasText: title }).locator("li b").allInnerTexts().then((names) => names.sort());
  assert.deepEqual(await listed("Also saved from you"), ["schedule.to", "target", "zones"], "mine");
  assert.deepEqual(await listed("Kept from others"), ["mode"], "theirs");
  await browser.shoot(second, "merge-again");
  await dialog.getByLabel("Mine").check();

  // And once more, with the same field: one is asked again.
  await write(origin, "lamp-1", { desired: { target: 25 } });
  await dialog.getByRole("button", { name: "Save merged" }).click();
  await dialog.getByText("onto version 5").waitFor();
  assert.ok(await dialog.getByRole("button", { name: "Choose for 1 field" }).isDisabled(), "what was chosen was for another value");
  assert.deepEqual(await dialog.locator("[data-path='/target'] code").allInnerTexts(), ["20", "23", "25"]);
  await dialog.getByRole("button", { name: "All mine" }).click();
  await dialog.getByRole("button", { name: "Save merged" }).click();
  await dialog.waitFor({ state: "detached" });

  const { state } = await read(origin, "lamp-1");
  const expected = { target: 23, mode: "eco", level: 7, schedule: { from: "06:00", to: "21:00" } };
  assert.deepEqual(state.desired, expected, "the fields of both");
  assert.equal(state.reported.room, 19.5);

  await restore(browser, second, { origin });
  await look(browser, second, { origin });
}

/** What would be saved as something else than it looks like is said, and not saved. */
async function mistakes(page) {
  const save = page.getByRole("button", { name: "Save" });
  await page.bringToFront();
  await page.getByLabel("Desired state as JSON").fill('{"mode": "eco", "mode": "heat"}');
  await page.getByText('The key "mode" is there twice.').waitFor();
  assert.ok(await save.isDisabled());
  await edit(page, { ...LAMP, mode: "x".repeat(9000) });
  await save.click();
  await page.locator(".editor").getByText(/Json document too large\. .*: 'desired' and 'reported' together/).waitFor();
  await edit(page, { ...LAMP, mode: null });
  const change = page.locator(".editor li");
  assert.equal((await change.innerText()).trim(), "mode heat removed");
}

/** Version 1 comes back as a write like any other. */
async function restore(browser, page, { origin }) {
  await page.getByRole("tab", { name: "History" }).click();
  await page.getByRole("button", { name: "Restore this version: 1", exact: true }).waitFor();
  await browser.audit(page, "history");
  await browser.shoot(page, "history");
  await page.getByRole("button", { name: "Restore this version: 1", exact: true }).click();
  await page.getByRole("button", { name: "Save" }).click();
  await page.locator("[data-version='7']").waitFor();
  const { state, version } = await read(origin, "lamp-1");
  assert.deepEqual([state.desired, version], [LAMP, 7]);
}

async function look(browser, page, { origin }) {
  await page.getByRole("tab", { name: "Charts" }).click();
  await page.getByRole("img", { name: /^room: now 19.5/ }).waitFor();
  for (const room of [19.7, 20.4, 21.1, 20.8]) await write(origin, "lamp-1", { reported: { room, target: 20 } });
  await page.getByRole("img", { name: /^room: now 20.8, lowest 18.5, highest 21.1, 6 values/ }).waitFor();
  await charts(page, { origin });
  await browser.audit(page, "charts");
  await browser.shoot(page, "charts");
  await page.getByRole("tab", { name: "Activity" }).click();
  await page.locator(".feed li").filter({ hasText: "room = 20.8" }).getByText("anonymous/device").waitFor();
  // What is refused over HTTP shows as it happens, too.
  const stale = await fetch(`${origin}/v1/devices/lamp-1/shadow?on_conflict=rebase&base_version=2`, {
    method: "PATCH",
    headers: { "Content-Type": "application/merge-patch+json" },
    body: '{"desired":{"target":1}}',
  });
  assert.equal(stale.status, 412);
  await page.getByText("Version conflict: expected v2").waitFor();
  await lately(browser, page);
  await page.getByRole("tab", { name: "Activity" }).press("ArrowRight");
  assert.equal(await page.getByRole("tab", { name: "State" }).getAttribute("aria-selected"), "true");
  await page.getByText("differs").first().waitFor({ state: "attached" });
  await browser.audit(page, "device");
  await browser.shoot(page, "device");
  await page.emulateMedia({ colorScheme: "dark" });
  await browser.shoot(page, "device-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 390, height: 844 });
  const fits = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
  assert.ok(fits, "nothing is wider than a phone");
  await browser.audit(page, "device on a phone");
  await browser.shoot(page, "device-phone");
}

/** Each value is a point of its own, within one second, too, between the times of the first and the last. */
async function charts(page, { origin }) {
  const points = async (name) => {
    const path = await page.getByRole("img", { name }).locator(".dots").getAttribute("d");
    return [...path.matchAll(/M([\d.]+) ([\d.]+)h0/g)].map(([, x]) => Number(x));
  };
  const room = await points(/^room/);
  assert.equal(room.length, 6);
  assert.ok(room.every((x, i) => i === 0 || x > room[i - 1]), `from left to right: ${room}`);
  assert.equal((await points(/^level/)).length, 1, "a single value is to be seen");
  const { entries } = await call(origin, "GET", "/v1/devices/lamp-1/shadow/history");
  const ends = [entries.at(-1), entries[0]].map((entry) => entry.timestamp);
  const clocks = await page.evaluate((ends) => ends.map((at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false })), ends);
  for (const name of [/^room/, /^level/]) {
    const axis = await page.locator("figure").filter({ has: page.getByRole("img", { name }) }).locator(".axis span").allInnerTexts();
    assert.ok(axis[0].endsWith(clocks[0]) && axis.at(-1).endsWith(clocks[1]), `${name}: ${axis}, not ${clocks}`);
  }
}

/** What was decided before the page was opened is there, and nothing twice. */
async function lately(browser, page) {
  await page.reload();
  await page.getByRole("tab", { name: "Activity" }).click();
  await page.getByText("room = 20.8").waitFor();
  await page.getByText("Version conflict: expected v1, is v3").waitFor();
  await page.getByText("desired.zones removed").waitFor();
  const versions = await page.locator(".feed li").filter({ hasText: "accepted" }).locator(".num").allInnerTexts();
  assert.deepEqual(versions, Array.from(versions, (_, i) => `v${versions.length - i}`));
  await browser.audit(page, "activity of a device");
  await browser.shoot(page, "device-activity");
}

async function edit(page, desired) {
  await page.bringToFront();
  await page.getByLabel("Desired state as JSON").fill(JSON.stringify(desired, null, 2));
}
