// What is accepted and rejected, as it happens.

import { useEffect, useState } from "preact/hooks";

import { deviceAddress } from "./address.js";
import { clock, count, explained, field, shown } from "./format.js";
import { useChanges } from "./frames.js";
import { isObject, leaves } from "./state.js";

const FIELDS_SHOWN = 4;

export function FeedView({ fleet, live }) {
  const [held, setHeld] = useState(null);
  const [kind, setKind] = useState("all");
  const [search, setSearch] = useState("");
  useChanges(fleet, held !== null);
  useEffect(() => fleet.followAccepted(live), []);
  const needle = search.trim().toLowerCase();
  const wanted = (entry) => (kind === "all" || entry.kind === kind) && entry.device.toLowerCase().includes(needle);
  const entries = (held ?? fleet.feed).filter(wanted);
  return (
    <section aria-labelledby="feed-title">
      <div class="title">
        <h1 id="feed-title">Activity</h1>
        <span class="muted">{count(fleet.counts.accepted)} accepted while this view was open, {count(fleet.counts.rejected)} rejected since the page was opened</span>
      </div>
      <div class="filters" role="search">
        <input type="search" aria-label="Search activity by device" placeholder="Search by device" value={search} onInput={(event) => setSearch(event.target.value)} />
        <select aria-label="Outcome" value={kind} onChange={(event) => setKind(event.target.value)}>
          <option value="all">All</option>
          <option value="accepted">Accepted</option>
          <option value="rejected">Rejected</option>
        </select>
        <button aria-pressed={held !== null} onClick={() => setHeld(held ? null : [...fleet.feed])}>{held ? "Resume" : "Pause"}</button>
      </div>
      <Feed entries={entries} withDevice />
    </section>
  );
}

/** Entries of the feed, newest first. `name`: the shadow that need not be named, where there is no device. */
export function Feed({ entries, name = "", withDevice = false }) {
  if (entries.length === 0) return <p class="empty card">Nothing yet. Updates show here as they are decided.</p>;
  return (
    <div class="log card" role="log" aria-live="off" aria-label="Updates" tabIndex={0}>
      <ol class="feed">{entries.map((entry) => <Entry key={entry.key} {...entry} own={name} withDevice={withDevice} />)}</ol>
    </div>
  );
}

const KINDS = { accepted: ["accepted", "good"], rejected: ["rejected", "bad"], connected: ["connected", "good"], away: ["disconnected", "warn"] };

function Entry({ kind, device, name, own, message, withDevice }) {
  const [text, tone] = KINDS[kind];
  const by = message.by ?? author(message.metadata);
  return (
    <li>
      <time class="muted">{clock(message.timestamp)}</time>
      <span class={`badge ${tone}`}>{text}</span>
      {withDevice && <a href={deviceAddress(device, name)}>{device}{name && ` · ${name}`}</a>}
      {!withDevice && name !== own && <a href={deviceAddress(device, name)}>{name || "classic"}</a>}
      <span class="what">{kind === "accepted" ? <Sent message={message} /> : kind === "rejected" && <Refused message={message} />}</span>
      {by && <span class="muted">{by}</span>}
      {message.version && <span class="muted num">v{count(message.version)}</span>}
    </li>
  );
}

function Sent({ message }) {
  if (message.deleted) return <em>deleted</em>;
  if (message.changed === false) return <span class="muted">no change</span>;
  if (message.state === null) return <em>all removed</em>;
  const found = message.changes ? message.changes.flatMap(changed) : [...leaves(message.state)];
  const more = found.length - FIELDS_SHOWN;
  return (
    <>
      {found.slice(0, FIELDS_SHOWN).map(([path, value]) => <code key={path}>{field(path)} {value === null ? <em>removed</em> : `= ${shown(value)}`}</code>)}
      {more > 0 && <span class="muted">and {more} more</span>}
    </>
  );
}

/** Who set the first value that there is metadata of; all of one update are of the same. */
function author(metadata) {
  if (!isObject(metadata) || typeof metadata.timestamp === "number") return metadata?.by;
  return Object.values(metadata).map(author).find((by) => by !== undefined);
}

/** The leaves of a change in a history, as a merge patch would have them. */
const changed = ({ path, value, removed }) => [...leaves(removed ? null : value, path)];

function Refused({ message }) {
  const paths = (message.conflicts ?? []).map((conflict) => field(conflict.path)).join(", ");
  return <>{explained(message)}{message.expected !== undefined && `: expected v${message.expected}, is v${message.version}`}{paths && ` · ${paths}`}</>;
}
