// A chart has every value: those that come all at once, and those of which the page hears nothing because the service drops
// what newer events supersede.

import assert from "node:assert/strict";

import { create, write } from "./api.mjs";

export async function charts(browser, { origin }) {
  await create(origin, "meter", { reported: { power: 0, phase: { a: 0 } } });
  const link = await holdable(browser.context);
  const page = await browser.tab("/#/device/meter");
  await page.getByText("Live", { exact: true }).waitFor();
  await page.getByRole("tab", { name: "Charts" }).click();
  const has = (name, last, count) => page.getByRole("img", { name: new RegExp(`^${name}: now ${last}, .* ${count} values?$`) }).waitFor();
  await has("power", 0, 1);

  let power = 0;
  const burst = async (count) => {
    for (let i = 0; i < count; i += 1) {
      power += 1;
      await write(origin, "meter", { reported: { power, phase: { a: power % 2 } } });
    }
  };
  link.hold();
  await burst(20);
  await link.releaseAtOnce(`"power":${power}`);
  await has("power", 20, 21);
  await has("phase.a", 0, 21);

  link.hold();
  await burst(20);
  await link.drop(`"power":${power}`);
  await burst(1);
  await has("power", 41, 42);
  const times = await page.locator("figure").filter({ hasText: "power" }).locator(".dots").getAttribute("d");
  const places = [...times.matchAll(/M([\d.]+) [\d.]+h0/g)].map(([, x]) => Number(x));
  assert.ok(places.every((x, i) => i === 0 || x > places[i - 1]), `from left to right: ${places}`);
}

/** Lets what the service sends over the WebSocket be held back, and then be sent in one message, or never. */
async function holdable(context) {
  let socket;
  let held;
  await context.routeWebSocket(/\/mqtt$/, (client) => {
    socket = client;
    client.connectToServer().onMessage((message) => (held ? held.push(Buffer.from(message)) : client.send(message)));
  });
  const until = async (text) => {
    while (!Buffer.concat(held).includes(text)) await new Promise((resolve) => setImmediate(resolve));
  };
  return {
    hold: () => (held = []),
    /** Sends all in one message once `text` is in it. */
    releaseAtOnce: async (text) => {
      await until(text);
      socket.send(Buffer.concat(held));
      held = undefined;
    },
    drop: async (text) => {
      await until(text);
      held = undefined;
    },
  };
}
