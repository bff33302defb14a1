// The log of one device: what was decided about a shadow lately, as its history and its last refusals have it, and from then on all that
// happens to the device: updates of all its shadows, rejections, connections.

import { useEffect, useState } from "preact/hooks";

import { Feed } from "./feed.jsx";
import { ask, shadowPath } from "./http.js";

const PAGE = 50;

/** `events` are those heard since the page was opened. */
export function Activity({ device, name, events }) {
  const [past, setPast] = useState([]);
  const [loading, setLoading] = useState(true);
  const [wanted, setWanted] = useState("all");
  const [held, setHeld] = useState(null);
  useEffect(() => {
    const path = shadowPath(device, name);
    // A reader may have the right to one of them only, and a shadow that does not exist has neither.
    const list = (of, key) => ask("GET", `${path}/${of}`).then((found) => found[key], () => []);
    Promise.all([list(`history?limit=${PAGE}`, "entries"), list("rejections", "rejections")])
      .then(([entries, rejections]) => setPast([...entries.map(accepted), ...rejections.map(rejected)]))
      .then(() => setLoading(false));
  }, []);

  const heard = new Set(events.map(identity));
  const before = past.map((entry) => ({ ...entry, device, name })).filter((entry) => !heard.has(identity(entry)));
  const all = [...events, ...before].sort((a, b) => b.message.timestamp - a.message.timestamp || b.message.version - a.message.version || 0);
  const entries = (held ?? all).filter(KINDS[wanted][1]);
  return (
    <>
      <div class="filters">
        <select aria-label="Events" value={wanted} onChange={(event) => setWanted(event.target.value)}>{Object.entries(KINDS).map(([key, [text]]) => <option key={key} value={key}>{text}</option>)}</select>
        <button aria-pressed={held !== null} onClick={() => setHeld(held ? null : all)}>{held ? "Resume" : "Pause"}</button>
        <span class="muted">As it happens: all shadows of {device}, and its connections.</span>
      </div>
      {loading && entries.length === 0 ? <p class="empty card" role="status">Loading…</p> : <Feed entries={entries} name={name} />}
    </>
  );
}

const KINDS = {
  all: ["All events", () => true],
  accepted: ["Accepted", ({ kind }) => kind === "accepted"],
  rejected: ["Rejected", ({ kind }) => kind === "rejected"],
  connections: ["Connections", ({ kind }) => kind === "connected" || kind === "away"],
};

const accepted = (message) => ({ key: `v${message.version}`, kind: "accepted", message });

const rejected = (message, index) => ({ key: `r${index}`, kind: "rejected", message });

/** The same for what was heard and what is read of it. */
function identity({ kind, name, message }) {
  const { version, timestamp, code, expected, message: text } = message;
  return kind === "accepted" ? `${name} ${version} ${message.changed ?? true}` : JSON.stringify([name, version, timestamp, code, expected, text]);
}
