// The editor of desired, or of the tags. It sends only what was changed, made for the version that was loaded: what others changed
// elsewhere meanwhile stays; what they changed in the same place is asked about, field by field.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { Copy, curl, published, useMqttListener } from "./command.jsx";
import { field, plural, shown } from "./format.js";
import { ask, patch, patchRequest, shadowPath } from "./http.js";
import { astray } from "./json.js";
import { prefix } from "./live.js";
import { MergeDialog } from "./merge.jsx";
import { at, edits, equal, isObject, patchOf, sides, withoutNulls } from "./state.js";
import { Values } from "./values.jsx";

const LABELS = { desired: "Desired state as JSON", tags: "Tags as JSON" };

/** `draft`: the section, the version and the value that were loaded, and the text. */
export function Editor({ draft, device, name, shadow, needsName, onText, onClose }) {
  const { section } = draft;
  const [text, setText] = useState(draft.text);
  const [problem, setProblem] = useState("");
  const [merge, setMerge] = useState(null);
  const [busy, setBusy] = useState(false);
  const area = useRef(null);
  // At once: what is typed meanwhile would go to another place.
  useLayoutEffect(() => {
    area.current.setSelectionRange(0, 0);
    area.current.focus();
  }, []);

  const { value, error } = read(text);
  const list = value ? edits(draft.base, value) : [];
  const current = shadow?.state?.[section] ?? {};

  /** Sends `wanted`, made for `version`, at which desired was `seen`; asks about what collides. */
  const send = async (wanted, version, seen) => {
    setBusy(true);
    setProblem("");
    try {
      if (wanted.length > 0) await patch(device, name, version, { [section]: patchOf(wanted) });
      setMerge(null);
      onClose();
    } catch (refusal) {
      if (refusal.status === 412) await askAbout(wanted, refusal.body, seen);
      else setProblem(refusal.message ?? String(refusal));
    }
    setBusy(false);
  };
  const askAbout = async (wanted, body, seen) => {
    try {
      const now = await ask("GET", shadowPath(device, name)).catch((error) => {
        if (error.status === 404) return { version: 0, state: {} };
        throw error;
      });
      const theirs = now.state[section] ?? {};
      // Decided for what is there now, which may be newer than the refusal.
      const refusal = { section, conflicts: body.conflicts ?? [], truncated: body.truncated || now.version !== body.version || !body.conflicts };
      setMerge({ ...sides(wanted, refusal, { base: draft.base, seen, theirs }), version: now.version, theirs });
    } catch (error) {
      setProblem(error.message);
    }
  };
  const hasChanges = list.length > 0 || !!error;
  useEffect(() => {
    if (!hasChanges) return undefined;
    const ask = (event) => event.preventDefault();
    addEventListener("beforeunload", ask);
    return () => removeEventListener("beforeunload", ask);
  }, [hasChanges]);
  const type = (event) => {
    setText(event.target.value);
    onText(event.target.value);
  };
  const save = (event) => {
    event.preventDefault();
    // The keys save when the button could not.
    if (busy || error || list.length === 0) return;
    send(list, draft.version, draft.base);
  };

  return (
    <form class="card editor" onSubmit={save} aria-labelledby="editor-title">
      <div class="title">
        <h2 id="editor-title">Edit {section}</h2>
        <span class="badge num">loaded at version {draft.version}</span>
      </div>
      <div class="panes">
        <textarea ref={area} aria-label={LABELS[section]} aria-invalid={error ? "true" : "false"} aria-describedby="editor-preview" spellcheck={false} value={text} onInput={type} onKeyDown={(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save(event); }} />
        <div id="editor-preview" class="preview">
          {error ? <p class="problem">{error}</p> : <h3>{list.length === 0 ? "No changes yet" : plural(list.length, "change")}</h3>}
          <ul class="changes">
            {list.map((edit) => (
              <li key={edit.path}>
                <b>{field(edit.path)}</b> <Values before={at(draft.base, edit.path)} after={edit.value} />
                {!equal(at(draft.base, edit.path), at(current, edit.path)) && <span class="badge warn">changed meanwhile to {shown(at(current, edit.path))}</span>}
              </li>
            ))}
          </ul>
        </div>
      </div>
      <p class="problem" role="alert">{problem}</p>
      <div class="actions">
        <button class="primary" title="Ctrl + Enter" disabled={busy || !!error || list.length === 0}>{busy ? "Saving…" : "Save"}</button>
        <button type="button" onClick={onClose}>Discard</button>
        {list.length > 0 && <CopyAs device={device} name={name} version={draft.version} needsName={needsName} body={{ [section]: patchOf(list) }} />}
        <span class="muted">Only these fields are sent. If one of them was changed meanwhile, you decide.</span>
      </div>
      {merge && <MergeDialog {...merge} busy={busy} problem={problem} onCancel={() => setMerge(null)} onSave={(kept) => send(kept, merge.version, merge.theirs)} />}
    </form>
  );
}

/** The edit as commands: what they send is decided as what the page sends. */
function CopyAs({ device, name, version, needsName, body }) {
  const [mqtt] = useMqttListener();
  const { path, headers } = patchRequest(device, name, version);
  return (
    <>
      <Copy label="the edit as curl" text={curl(needsName, "PATCH", path, headers, body)}>Copy as curl</Copy>
      {mqtt && <Copy label="the edit as mosquitto_pub" text={published(mqtt, "", `${prefix(device, name)}/update`, { state: body, version, onConflict: version > 0 ? "rebase" : undefined })}>Copy as mosquitto_pub</Copy>}
    </>
  );
}

function read(text) {
  try {
    const value = JSON.parse(text.trim() || "{}");
    const error = isObject(value) ? astray(text) : "The outermost value must be an object.";
    return error ? { error } : { value: withoutNulls(value) };
  } catch (error) {
    return { error: `This is not JSON yet: ${error.message}` };
  }
}
