// Uses the types that openapi-typescript generates, under `tsc --strict`. Argument: the address of the server.

import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };

function check(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what);
}

const client = createClient<paths>({ baseUrl: process.argv[2] });
const path = { id: "lamp" };
const state: components["schemas"]["StateObject"] = { desired: { mode: "eco", list: [1, { deep: true }] } };

const created = await client.PUT("/v1/devices/{id}/shadow", { params: { path, query: { upsert: true } }, body: state });
check(created.response.status === 201, "created");

const read = await client.GET("/v1/devices/{id}/shadow", { params: { path, query: { fields: "/desired" } } });
check(read.data !== undefined, "read");
const etag: string = read.data.etag;

const merged = await client.PATCH("/v1/devices/{id}/shadow", {
  params: { path, header: { "If-Match": etag } },
  headers: { "Content-Type": "application/merge-patch+json" },
  body: { reported: { mode: "eco", list: null } },
});
check(merged.data?.changed === true, "merged");

const stale = await client.DELETE("/v1/devices/{id}/shadow", { params: { path, header: { "If-Match": etag } } });
check(stale.error?.status === 412 && stale.error.error === "version-conflict", "stale");

const edit: components["schemas"]["JsonPatch"] = [{ op: "add", path: "/desired/mode", value: "off" }];
const edited = await client.PATCH("/v1/devices/{id}/shadow", {
  params: { path, header: { "If-Match": "*" } },
  headers: { "Content-Type": "application/json-patch+json" },
  body: edit,
});
check(edited.data?.version === 3, "edited");

const history = await client.GET("/v1/devices/{id}/shadow/history", { params: { path, query: { limit: 2 } } });
check(history.data?.end === "more" && history.data.entries[0]?.version === 3, "history");
const refusals = await client.GET("/v1/rejections", { params: { query: { limit: 5 } } });
const refusal = refusals.data?.rejections[0];
check(refusal?.device === "lamp" && refusal.via === "http", "refusals");
const night = { id: "lamp", name: "night" };
const named = await client.PUT("/v1/devices/{id}/shadows/{name}", {
  params: { path: night, header: { "If-None-Match": "*" } },
  body: { tags: { room: "hall" } },
});
check(named.response.status === 201, "a named shadow");
const shadows = await client.GET("/v1/devices/{id}/shadows", { params: { path } });
check(shadows.data?.shadows[1]?.name === "night", "shadows");
const device = await client.GET("/v1/devices/{id}", { params: { path } });
check(device.data?.shadows.length === 2, "device");
const devices = await client.GET("/v1/devices", { params: { query: { drift: true } } });
check(devices.data?.devices[0]?.id === "lamp", "devices");
const aws = await client.GET("/things/{id}/shadow", { params: { path } });
check(aws.data?.version === 3, "as AWS");
const update: components["schemas"]["AwsUpdate"] = { state: { desired: { mode: "on" } }, version: 3 };
const updated = await client.POST("/things/{id}/shadow", { params: { path }, body: update });
check(updated.data?.version === 4, "updated as AWS");
const session = await client.GET("/session");
check(session.data?.roles[0] === "admin", "session");
const body = { user: "nobody", password: "wrong" };
const denied = await client.POST("/session", { body });
check(denied.error?.status === 401, "no session");
const ready = await client.GET("/readyz", { parseAs: "text" });
check(ready.data === "ready\n", "ready");
