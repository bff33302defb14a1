// Three ways of a field: as it was when loaded, as one wants it, as somebody else made it meanwhile. One decides for each.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { ago, field, plural, shown } from "./format.js";
import { Values } from "./values.jsx";

export function MergeDialog({ rows, clean, others, version, busy, problem, onCancel, onSave }) {
  const dialog = useRef(null);
  const [choices, setChoices] = useState({});
  useEffect(() => {
    dialog.current.showModal();
    // Whom a dialog takes the keyboard from gets it back when it closes.
    return () => dialog.current?.close();
  }, []);
  // A choice was for what was there then.
  useLayoutEffect(() => setChoices({}), [version]);
  const open = rows.filter((row) => choices[row.path] === undefined).length;
  const all = (choice) => setChoices(Object.fromEntries(rows.map((row) => [row.path, choice])));
  const kept = [...clean, ...rows.filter((row) => choices[row.path] === "mine").map(({ path, value }) => ({ path, value }))];

  return (
    <dialog class="merge" ref={dialog} aria-labelledby="merge-title" onCancel={(event) => { event.preventDefault(); onCancel(); }}>
      <h2 id="merge-title">{rows.length > 0 ? `${plural(rows.length, "field")} changed while you were editing` : "The shadow changed while you were editing"}</h2>
      <p class="muted">Nothing has been saved yet. Choose for each field; everything else is kept from both sides.</p>
      {rows.length > 0 && (
        <>
          <div class="actions">
            <button type="button" onClick={() => all("mine")}>All mine</button>
            <button type="button" onClick={() => all("theirs")}>All theirs</button>
          </div>
          <div class="ways" role="list">
            {rows.map((row) => <Field key={row.path} row={row} choice={choices[row.path]} choose={(choice) => setChoices({ ...choices, [row.path]: choice })} />)}
          </div>
        </>
      )}
      <div class="rest">
        <Rest title="Also saved from you" list={clean} />
        <Rest title="Kept from others" list={others} />
      </div>
      <p class="problem" role="alert">{problem}</p>
      <div class="actions">
        <button type="button" class="primary" disabled={busy || open > 0} onClick={() => onSave(kept)}>
          {open > 0 ? `Choose for ${plural(open, "field")}` : busy ? "Saving…" : "Save merged"}
        </button>
        <button type="button" onClick={onCancel}>Keep editing</button>
        <span class="muted num">onto version {version}</span>
      </div>
    </dialog>
  );
}

function Field({ row, choice, choose }) {
  const title = field(row.path);
  const way = (key, label, value, note) => (
    <label class={`way ${choice === key ? "chosen" : ""}`}>
      <span><input type="radio" name={`way-${row.path}`} value={key} checked={choice === key} onChange={() => choose(key)} /> {label}</span>
      <code>{value === undefined ? "removed" : shown(value)}</code>
      <small>{note}</small>
    </label>
  );
  const theirs = [row.by, row.timestamp && ago(row.timestamp), row.version && `v${row.version}`].filter(Boolean).join(" · ");
  return (
    <fieldset role="listitem" data-path={row.path}>
      <legend>{title}</legend>
      <div class="three">
        <div class="way base"><span>Base</span><code>{row.base === undefined ? "not there" : shown(row.base)}</code><small>when you loaded it</small></div>
        {way("mine", "Mine", row.value, "not saved yet")}
        {way("theirs", "Theirs", row.theirs, theirs)}
      </div>
    </fieldset>
  );
}

function Rest({ title, list }) {
  if (list.length === 0) return null;
  return (
    <div>
      <h3>{title}</h3>
      <ul class="changes">{list.map(({ path, value }) => <li key={path}><b>{field(path)}</b> <Values after={value} /></li>)}</ul>
    </div>
  );
}
