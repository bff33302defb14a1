// What happened to a shadow, version by version, newest first.

import { useEffect, useState } from "preact/hooks";

import { ago, clock, count, field, plural } from "./format.js";
import { ask, shadowPath } from "./http.js";
import { Values } from "./values.jsx";

const PAGE = 25;
const CHANGES_SHOWN = 8;
/** Fewer matches than these have more read, of at most READ_MAX versions without being asked. */
const MATCHES_MIN = 10;
const READ_MAX = 500;
const SECTIONS = { all: "All sections", desired: "Desired", reported: "Reported", tags: "Tags" };

export function History({ device, name, version, writable, editing, onRestore }) {
  const [{ entries, end }, setRead] = useState({ entries: [], end: "more" });
  const [problem, setProblem] = useState("");
  const [section, setSection] = useState("all");
  const [writer, setWriter] = useState("");
  const path = shadowPath(device, name);

  const read = async (before) => {
    try {
      const page = await ask("GET", `${path}/history?limit=${PAGE}${before ? `&before=${before}` : ""}`);
      setRead((held) => (before ? continued(held, page, before) : renewed(held, page)));
      setProblem("");
    } catch (error) {
      setProblem(error.message);
    }
  };
  useEffect(() => {
    read();
  }, [version]);
  const restore = async (of) => {
    try {
      const former = await ask("GET", `${path}?version=${of}`);
      onRestore(former.state.desired ?? {});
    } catch (error) {
      setProblem(error.status === 410 ? `Version ${of} is not kept any more.` : error.message);
    }
  };
  const wanted = { section, writer: writer.trim().toLowerCase() };
  const isFiltered = section !== "all" || wanted.writer !== "";
  const found = isFiltered ? entries.map((entry) => filtered(entry, wanted)).filter(Boolean) : entries;
  // Of a filter with few matches, pages are read until there is something to see.
  const oldest = entries.at(-1)?.version;
  useEffect(() => {
    if (isFiltered && end === "more" && found.length < MATCHES_MIN && entries.length < READ_MAX) read(oldest);
  }, [section, writer, oldest]);
  return (
    <div class="card history">
      <div class="filters">
        <select aria-label="Section" value={section} onChange={(event) => setSection(event.target.value)}>
          {Object.entries(SECTIONS).map(([key, text]) => <option key={key} value={key}>{text}</option>)}
        </select>
        <input type="search" aria-label="Writer" placeholder="Any writer" list="writers" value={writer} autocapitalize="none" spellcheck={false} onInput={(event) => setWriter(event.target.value)} />
        <datalist id="writers">{[...new Set(entries.map(({ by }) => by))].map((by) => <option key={by} value={by} />)}</datalist>
        {isFiltered && <span class="muted" role="status">{count(found.length)} of {plural(entries.length, "version")} read</span>}
      </div>
      {problem && <p class="problem" role="alert">{problem}</p>}
      <ol>
        {found.map((entry) => <Entry key={entry.version} entry={entry} isCurrent={entry.version === version} writable={writable} editing={editing} onRestore={() => restore(entry.version)} />)}
      </ol>
      {end === "more" && entries.length > 0 && <button onClick={() => read(entries.at(-1).version)}>Older versions</button>}
      {end === "gone" && <p class="muted">What was before is not kept any more.</p>}
    </div>
  );
}

/** The part of an entry that passes the filter; `undefined`: none. A writer is a principal or a client, or a part of either. */
function filtered(entry, { section, writer }) {
  if (![entry.by, entry.client ?? ""].some((name) => name.toLowerCase().includes(writer))) return undefined;
  if (section === "all") return entry;
  const changes = entry.changes.filter(({ path }) => path === `/${section}` || path.startsWith(`/${section}/`));
  return changes.length > 0 ? { ...entry, changes } : undefined;
}

/** What was read, and the page of what was before its version `before`. */
function continued(held, page, before) {
  if (held.entries.at(-1)?.version !== before) return held;
  return { entries: [...held.entries, ...page.entries], end: page.end };
}

/** The newest page, and what was read before if nothing is missing in between. */
function renewed(held, page) {
  // Answers may overtake each other.
  if (page.entries[0]?.version < held.entries[0]?.version) return held;
  const oldest = page.entries.at(-1)?.version;
  const from = held.entries.findIndex((entry) => entry.version === oldest);
  return page.end === "more" && from >= 0 ? { entries: [...page.entries, ...held.entries.slice(from + 1)], end: held.end } : page;
}

function Entry({ entry, isCurrent, writable, editing, onRestore }) {
  const [all, setAll] = useState(false);
  const more = all ? 0 : entry.changes.length - CHANGES_SHOWN;
  return (
    <li>
      <div class="stamp">
        <b class="num">v{count(entry.version)}</b>
        <span>{entry.by}</span>
        {entry.client && !entry.by.includes(entry.client) && <span class="muted">{entry.client}</span>}
        <time class="muted" title={clock(entry.timestamp)}>{ago(entry.timestamp)}</time>
        <span class="spring" />
        {isCurrent ? <span class="badge">current</span> : writable && !entry.deleted && <button class="quiet" aria-label={`Restore this version: ${entry.version}`} disabled={editing} title={editing ? "Save or discard the edit first" : undefined} onClick={onRestore}>Restore this version</button>}
      </div>
      {entry.deleted && <p><em>deleted</em></p>}
      <ul class="changes">
        {entry.changes.slice(0, all ? undefined : CHANGES_SHOWN).map((change) => (
          <li key={change.path}><b>{field(change.path)}</b> <Values before={change.previous} after={change.removed ? undefined : change.value} /></li>
        ))}
        {more > 0 && <li><button class="quiet" onClick={() => setAll(true)}>and {plural(more, "more change")}</button></li>}
      </ul>
    </li>
  );
}
