// What was decided about one shadow: lately, as its history and its last refusals have it, and from then on as it happens.

import { useEffect, useState } from "preact/hooks";

import { Feed } from "./feed.jsx";
import { ask, shadowPath } from "./http.js";

const PAGE = 50;

/** `events` are those heard since the page was opened. */
export function Activity({ device, name, events }) {
  const [past, setPast] = useState([]);
  const [loading, setLoading] = useState(true);
  useEffect(() => {
    const path = shadowPath(device, name);
    // Either may be refused to who may read the other, and of what is not there, there is none.
    const list = (of, key) => ask("GET", `${path}/${of}`).then((found) => found[key], () => []);
    Promise.all([list(`history?limit=${PAGE}`, "entries"), list("rejections", "rejections")])
      .then(([entries, rejections]) => setPast([...entries.map(accepted), ...rejections.map(rejected)]))
      .then(() => setLoading(false));
  }, []);

  const heard = new Set(events.map(identity));
  const before = past.filter((entry) => !heard.has(identity(entry))).map((entry) => ({ ...entry, device, name }));
  const entries = [...events, ...before].sort((a, b) => b.message.timestamp - a.message.timestamp || b.message.version - a.message.version || 0);
  if (loading && entries.length === 0) return <p class="empty card" role="status">Loading…</p>;
  return <Feed entries={entries} />;
}

const accepted = (message) => ({ key: `v${message.version}`, kind: "accepted", message });

const rejected = (message, index) => ({ key: `r${index}`, kind: "rejected", message });

/** The same for what was heard and what is read of it. */
function identity({ kind, message }) {
  const { version, timestamp, code, expected, message: text } = message;
  return kind === "accepted" ? `${version} ${message.changed ?? true}` : JSON.stringify([version, timestamp, code, expected, text]);
}
