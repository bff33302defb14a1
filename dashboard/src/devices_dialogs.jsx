// A device is created with what is desired of it, and deleted with its shadows.

import { useEffect, useState } from "preact/hooks";

import { deviceAddress } from "./address.js";
import { Dialog } from "./dialog.jsx";
import { count, plural } from "./format.js";
import { ask, shadowPath } from "./http.js";
import { astray } from "./json.js";
import { isObject } from "./state.js";

export function CreateDevice({ device = "", onClose }) {
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const create = async (event) => {
    event.preventDefault();
    const { id, name, desired, tags } = Object.fromEntries(new FormData(event.target));
    setBusy(true);
    try {
      const state = { desired: parsed("Desired", desired), tags: parsed("Tags", tags) };
      const body = Object.fromEntries(Object.entries(state).filter(([section, value]) => section === "desired" || Object.keys(value).length > 0));
      await ask("PUT", shadowPath(id, name), body, { "If-None-Match": "*", "Content-Type": "application/json", Prefer: "return=minimal" });
      onClose();
      location.hash = deviceAddress(id, name);
    } catch (error) {
      setProblem(error.status === 412 ? "This shadow exists already." : error.message);
    }
    setBusy(false);
  };
  return (
    <Dialog title={device ? `Create a shadow of ${device}` : "Create a device"} onCancel={onClose}>
      <form class="form" onSubmit={create}>
        <label>Device id<input name="id" required maxLength={128} pattern="[A-Za-z0-9:_\-]+" title="Letters, digits, : _ and -" defaultValue={device} readOnly={device !== ""} autocomplete="off" autocapitalize="none" spellcheck={false} /></label>
        <label>Name of the shadow<input name="name" required={device !== ""} maxLength={64} pattern="[A-Za-z0-9:_$\-]+" title="Letters, digits, : _ $ and -" placeholder={device ? "" : "none: the classic shadow"} autocomplete="off" autocapitalize="none" spellcheck={false} /></label>
        <label>Desired, as JSON<textarea name="desired" rows={4} spellcheck={false} defaultValue="{}" /></label>
        <label>Tags, as JSON<textarea name="tags" rows={2} spellcheck={false} defaultValue="{}" /></label>
        <p class="problem" role="alert">{problem}</p>
        <div class="actions">
          <button class="primary" disabled={busy}>{busy ? "Creating…" : "Create"}</button>
          <button type="button" onClick={onClose}>Cancel</button>
        </div>
      </form>
    </Dialog>
  );
}

function parsed(title, text) {
  let value;
  try {
    value = JSON.parse(text.trim() || "{}");
  } catch (error) {
    throw new Error(`${title} is not JSON: ${error.message}`);
  }
  const wrong = isObject(value) ? astray(text) : "it must be an object.";
  if (wrong) throw new Error(`${title}: ${wrong}`);
  return value;
}

/**
 * Deletes one shadow, or all. `names`: of the device's shadows. They are deleted as they were when the dialog was opened: one that
 * was changed since is kept.
 */
export function DeleteDevice({ device, name, names, onClose, onDone }) {
  const [whole, setWhole] = useState(false);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  /** By name, the version and etag of each shadow; `undefined`: not read yet. */
  const [found, setFound] = useState(undefined);
  useEffect(() => {
    const all = [...new Set([name, ...names])];
    Promise.all(all.map((each) => asItIs(device, each))).then((read) => setFound(new Map(read.flat())), (error) => setProblem(error.message));
  }, []);
  const remove = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem("");
    const wanted = whole ? [...found] : [...found].filter(([each]) => each === name);
    const kept = [];
    for (const [each, { etag }] of wanted) {
      await ask("DELETE", shadowPath(device, each), undefined, { "If-Match": etag }).catch((error) => {
        if (error.status !== 404) kept.push(`${each || "The classic shadow"}: ${error.status === 412 ? "it was changed since this question was asked." : error.message}`);
      });
    }
    setBusy(false);
    if (kept.length === 0) return onDone();
    setProblem(`${wanted.length > 1 ? `${count(wanted.length - kept.length)} of ${plural(wanted.length, "shadow")} deleted. ` : ""}Not deleted: ${kept.join(" ")}`);
  };
  return (
    <Dialog title={name ? `Delete the shadow ${name} of ${device}?` : `Delete the shadow of ${device}?`} onCancel={onClose}>
      <form class="form" onSubmit={remove}>
        <p>What is desired, reported and tagged{found?.has(name) && ` at version ${count(found.get(name).version)}`} is removed. The device creates a new shadow when it reports again. Versions go on counting, and the history stays as long as it is kept.</p>
        {found?.size > 1 && <label class="check"><input type="checkbox" checked={whole} onChange={(event) => setWhole(event.target.checked)} />Delete {plural(found.size, "shadow")}: the whole device</label>}
        <p class="problem" role="alert">{problem}</p>
        <div class="actions">
          <button class="danger" disabled={busy || !found}>{busy ? "Deleting…" : "Delete"}</button>
          <button type="button" onClick={onClose}>Keep</button>
        </div>
      </form>
    </Dialog>
  );
}

/** The shadow's name with its version and etag, in a list; an empty one if there is no shadow. */
async function asItIs(device, name) {
  try {
    const { version, etag } = await ask("GET", shadowPath(device, name));
    return [[name, { version, etag }]];
  } catch (error) {
    if (error.status === 404) return [];
    throw error;
  }
}
