// What happened to a shadow, version by version, newest first.

import { useEffect, useState } from "preact/hooks";

import { Values } from "./editor.jsx";
import { ago, clock, count, plural } from "./format.js";
import { ask, shadowPath } from "./http.js";

const PAGE = 25;
const CHANGES_SHOWN = 8;

export function History({ device, name, version, onRestore }) {
  const [entries, setEntries] = useState([]);
  const [end, setEnd] = useState("more");
  const [problem, setProblem] = useState("");
  const path = shadowPath(device, name);

  const read = async (before) => {
    try {
      const page = await ask("GET", `${path}/history?limit=${PAGE}${before ? `&before=${before}` : ""}`);
      setEntries((held) => joined(before ? [...held, ...page.entries] : page.entries, held));
      if (before || entries.length === 0) setEnd(page.end);
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
  return (
    <div class="card history">
      {problem && <p class="problem" role="alert">{problem}</p>}
      <ol>
        {entries.map((entry) => <Entry key={entry.version} entry={entry} isCurrent={entry.version === version} onRestore={() => restore(entry.version)} />)}
      </ol>
      {end === "more" && entries.length > 0 && <button onClick={() => read(entries.at(-1).version)}>Older versions</button>}
      {end === "gone" && <p class="muted">What was before is not kept any more.</p>}
    </div>
  );
}

/** Pages join where they overlap; what was read before and is not in `read` stays. */
function joined(read, held) {
  const byVersion = new Map([...held, ...read].map((entry) => [entry.version, entry]));
  const all = [...byVersion.values()].sort((a, b) => b.version - a.version);
  // More happened than one page holds: what is in between would be missing, so begin anew.
  const hole = all.findIndex((entry, i) => i > 0 && all[i - 1].version !== entry.version + 1);
  return hole > 0 ? all.slice(0, hole) : all;
}

function Entry({ entry, isCurrent, onRestore }) {
  const more = entry.changes.length - CHANGES_SHOWN;
  return (
    <li>
      <div class="stamp">
        <b class="num">v{count(entry.version)}</b>
        <span>{entry.by}</span>
        {entry.client && !entry.by.includes(entry.client) && <span class="muted">{entry.client}</span>}
        <time class="muted" title={clock(entry.timestamp)}>{ago(entry.timestamp)}</time>
        <span class="spring" />
        {isCurrent ? <span class="badge">current</span> : !entry.deleted && <button class="quiet" aria-label={`Restore this version: ${entry.version}`} onClick={onRestore}>Restore this version</button>}
      </div>
      {entry.deleted && <p><em>deleted</em></p>}
      <ul class="changes">
        {entry.changes.slice(0, CHANGES_SHOWN).map((change) => (
          <li key={change.path}><b>{change.path.slice(1).replaceAll("/", ".")}</b> <Values before={change.previous} after={change.removed ? undefined : change.value} /></li>
        ))}
        {more > 0 && <li class="muted">and {plural(more, "more change")}</li>}
      </ul>
    </li>
  );
}
