// node run.mjs SCENARIO HTTP-ORIGIN MQTT-URL

import { Browser } from "./browser.mjs";
import { charts } from "./charts.mjs";
import { cluster } from "./cluster.mjs";
import { device } from "./device.mjs";
import { first } from "./first.mjs";
import { fleet } from "./fleet.mjs";
import { large } from "./large.mjs";
import { merge } from "./merge.mjs";
import { operate } from "./operate.mjs";
import { outage } from "./outage.mjs";
import { picture } from "./picture.mjs";
import { rights } from "./rights.mjs";
import { rollout } from "./rollout.mjs";
import { signIn } from "./sign_in.mjs";

const [scenario, origin, broker, ...rest] = process.argv.slice(2);
const browser = await Browser.start(origin);
try {
  await { charts, cluster, device, first, fleet, large, merge, operate, outage, picture, rights, rollout, "sign-in": signIn }[scenario](browser, { origin, broker, rest });
} catch (error) {
  for (const page of browser.context.pages()) {
    await browser.shoot(page, `failed-${scenario}`).catch(() => {});
    console.error(await page.locator("body").innerText().catch(() => "no page"));
  }
  console.error(browser.faults.join("\n"));
  await browser.end().catch(() => {});
  throw error;
}
await browser.end();
