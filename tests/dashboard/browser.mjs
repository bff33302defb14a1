// Chromium, and what every scenario asks of every page: no error on its console, no request to anybody else, and nothing
// that axe-core finds serious.

import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

// The packages are those of dashboard/, locked there.
export const require = createRequire(new URL("../../dashboard/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const SHOTS = "target/screenshots";
export const DEADLINE_MS = 1000 * Number(process.env.UMBRA_TEST_DEADLINE ?? 120);

export class Browser {
  static async start(origin) {
    const profile = mkdtempSync(join(tmpdir(), "umbra-chromium-"));
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: process.env.UMBRA_TEST_CHROMIUM ?? "/usr/bin/chromium",
      headless: true,
      args: ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
      viewport: { width: 1280, height: 860 },
      colorScheme: "light",
    });
    context.setDefaultTimeout(DEADLINE_MS);
    return new Browser(context, origin, profile);
  }

  constructor(context, origin, profile) {
    Object.assign(this, { context, origin, profile, faults: [] });
    mkdirSync(SHOTS, { recursive: true });
  }

  /** A new tab; `expected` says which errors of the console the scenario provokes. */
  async tab(path = "/", expected = () => false) {
    const page = await this.context.newPage();
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type()) && !expected(message.text())) {
        this.faults.push(`console: ${message.text()}`);
      }
    });
    page.on("pageerror", (error) => this.faults.push(`page: ${error.stack}`));
    page.on("request", (request) => {
      if (new URL(request.url()).origin !== this.origin) this.faults.push(`asks elsewhere: ${request.url()}`);
    });
    await page.goto(this.origin + path);
    return page;
  }

  async shoot(page, name) {
    await page.screenshot({ path: `${SHOTS}/${name}.png` });
  }

  /** What axe-core finds that keeps people out, in both colour schemes. */
  async audit(page, name) {
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
      for (const { id, impact, nodes } of violations) {
        if (["serious", "critical"].includes(impact)) {
          const where = nodes.slice(0, 3).map((node) => `${node.html} ${node.failureSummary}`).join("\n    ");
          this.faults.push(`${name} (${colorScheme}): ${impact} ${id}: ${nodes.length} ×\n    ${where}`);
        }
      }
    }
    await page.emulateMedia({ colorScheme: "light", reducedMotion: null });
  }

  async end() {
    await this.context.close();
    rmSync(this.profile, { recursive: true, force: true });
    if (this.faults.length > 0) throw new Error(`the pages had faults:\n  ${[...new Set(this.faults)].join("\n  ")}`);
  }
}
