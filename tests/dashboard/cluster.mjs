// The page of a cluster, at a node of a running one: its nodes, who decides, the log and its servers. One node has other limits, which is
// named; another one is stopped for a while, and the page says so while one looks at it.

import assert from "node:assert/strict";

import { call } from "./api.mjs";
import { looks } from "./looks.mjs";

export async function cluster(browser, { origin, rest: [lastNode] }) {
  const page = await browser.tab("/");
  // By the keyboard alone.
  const link = page.getByRole("link", { name: "Cluster", exact: true });
  await link.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Cluster" }).waitFor();
  const row = (name) => page.getByRole("region", { name: "Nodes" }).getByRole("row", { name: new RegExp(`^${name}( decides)? `) });
  for (const node of [1, 2, 3]) await row(node).getByText("alive", { exact: true }).waitFor();
  const { decider, log } = await call(origin, "GET", "/v1/cluster");
  await row(decider).getByText("decides", { exact: true }).waitFor();
  await page.getByText(`node ${decider}, since`, { exact: false }).waitFor();
  const servers = page.getByRole("region", { name: "NATS servers" });
  for (const { name } of log.servers) await servers.getByRole("row", { name: new RegExp(`^${name} `) }).getByText("always").waitFor();
  await row(2).getByText("[limits]").waitFor();
  const problems = page.getByRole("list", { name: "Problems" });
  await problems.getByText("[limits] is not the same at nodes 1, 3 and at node 2.").waitFor();
  await page.getByText("1 problem", { exact: true }).waitFor();
  await looks(browser, page, "cluster");

  process.kill(Number(lastNode), "SIGSTOP");
  try {
    await problems.getByText("Node 3 is not heard of").waitFor();
    await row(3).getByText("not heard of", { exact: true }).waitFor();
    await looks(browser, page, "cluster-problems");
  } finally {
    process.kill(Number(lastNode), "SIGCONT");
  }
  await problems.getByText("Node 3 is not heard of").waitFor({ state: "detached" });
  await row(3).getByText("alive", { exact: true }).waitFor();
  // The regions that scroll can be reached.
  await page.getByRole("region", { name: "Nodes" }).focus();
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Nodes");
}
