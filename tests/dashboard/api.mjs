// The service as it is without the page.

import assert from "node:assert/strict";

/** Sends a request as a program would. */
export async function call(origin, method, path, body, headers = {}) {
  const response = await fetch(origin + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

/** Last write wins: whoever it is does not look. */
export function write(origin, device, state) {
  const headers = { "Content-Type": "application/merge-patch+json", "If-Match": "*", "Umbra-Client": "device" };
  return call(origin, "PATCH", `/v1/devices/${device}/shadow`, state, headers);
}

/** Makes a shadow. */
export function create(origin, device, state) {
  return call(origin, "PUT", `/v1/devices/${device}/shadow`, state, { "If-None-Match": "*", "Content-Type": "application/json" });
}

export function read(origin, device) {
  return call(origin, "GET", `/v1/devices/${device}/shadow`);
}
