// Requests to the service. Who asks is known by a cookie that no script sees, or need not be known.

import { explained } from "./format.js";

/** Names this page in histories. */
export const CLIENT = `dashboard-${Math.random().toString(36).slice(2, 10)}`;

/** A refusal, with what the service says of it; status 0: there was no answer. */
export class Problem extends Error {
  constructor(status, body) {
    super(explained(body) || `The service answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

/** Asks; the answer's body as JSON, `null` if it has none. Throws a Problem. */
export async function ask(method, path, body, headers = {}) {
  const request = {
    method,
    headers: { "Umbra-Client": CLIENT, ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: "same-origin",
    cache: "no-store",
  };
  const response = await fetch(path, request).catch(() => {
    throw new Problem(0, { message: "The service cannot be reached." });
  });
  const text = await response.text();
  const parsed = text ? parse(text) : null;
  if (!response.ok) throw new Problem(response.status, parsed ?? {});
  return parsed;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return { message: text.slice(0, 200) };
  }
}

/** The path of a shadow; `name` is empty for the classic one. */
export function shadowPath(device, name) {
  const base = `/v1/devices/${encodeURIComponent(device)}`;
  return name ? `${base}/shadows/${encodeURIComponent(name)}` : `${base}/shadow`;
}

/**
 * Returns whether one may change a shadow by the merge patch `body`: the service is asked to pretend. An empty section stands for
 * anything in it, `null` for all of it. The shadow may come and go meanwhile.
 */
export function mayWrite(device, name, body) {
  const headers = { "Content-Type": "application/merge-patch+json", Prefer: "return=minimal" };
  return ask("PATCH", `${shadowPath(device, name)}?dry_run=true&upsert=true`, body, headers).then(
    () => true,
    ({ status }) => status !== 403 && status !== 404,
  );
}

/** Returns path and headers of a merge patch made for `version`: accepted unless what it touches has changed since. */
export function patchRequest(device, name, version) {
  const query = version > 0 ? `?on_conflict=rebase&base_version=${version}` : "";
  const condition = version > 0 ? {} : { "If-None-Match": "*" };
  return { path: shadowPath(device, name) + query, headers: { "Content-Type": "application/merge-patch+json", ...condition } };
}

/** Changes a shadow by a merge patch. */
export function patch(device, name, version, body) {
  const { path, headers } = patchRequest(device, name, version);
  return ask("PATCH", path, body, { ...headers, Prefer: "return=minimal" });
}
