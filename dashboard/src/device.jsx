// One shadow: desired beside reported, live; its history, its charts, what is decided about it, and the editor.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { Activity } from "./activity.jsx";
import { deviceAddress } from "./address.js";
import { Charts } from "./charts.jsx";
import { DeviceInfo, useDeviceInfo } from "./device_info.jsx";
import { CreateDevice, DeleteDevice } from "./devices_dialogs.jsx";
import { Editor } from "./editor.jsx";
import { ago, clock, count, field, presence, shown } from "./format.js";
import { useNow } from "./frames.js";
import { fleetAddress } from "./fleet_view.jsx";
import { History } from "./history.jsx";
import { ask, mayWrite, shadowPath } from "./http.js";
import { JsonView } from "./json_view.jsx";
import { prefix, shadowOf } from "./live.js";
import { at, fields, isObject, leaves, Newest } from "./state.js";

const TABS = { state: "State", history: "History", charts: "Charts", json: "JSON", activity: "Activity" };
const FEED_MAX = 300;

export function DeviceView({ device, name, params, session, live, drafts }) {
  const key = `${device}~${name}`;
  const [shadow, setShadow] = useState(undefined);
  const [problem, setProblem] = useState("");
  const [tab, setShownTab] = useState(Object.hasOwn(TABS, params.tab ?? "") ? params.tab : "state");
  const [dialog, setDialog] = useState("");
  const [draft, setDraft] = useState(drafts.get(key) ?? null);
  /** `{desired, tags, all}`: something of desired, all tags, desired and reported may be written; `undefined`: not known yet. */
  const [writable, setWritable] = useState(undefined);
  const [events, setEvents] = useState([]);
  /** How often something may have been missed: what was read of the past is read again. */
  const [gaps, setGaps] = useState(0);
  const info = useDeviceInfo(device, live);
  const names = (info.shadows ?? []).map((other) => other.name ?? "");
  const sequence = useRef(0);
  const now = useNow(5000);

  const [newest] = useState(() => new Newest());
  const take = (next) => {
    if (newest.accepts(next)) setShadow(next);
  };
  useEffect(() => {
    const load = () =>
      ask("GET", shadowPath(device, name))
        .catch((error) => {
          if (error.status !== 404) throw error;
          return null;
        })
        .then(async (found) => {
          take(found);
          setProblem("");
          const may = (body) => mayWrite(device, name, body);
          const [desired, tags, all] = await Promise.all([may({ desired: {} }), may({ tags: null }), may({ desired: null, reported: null })]);
          setWritable({ desired, tags, all });
        })
        .catch((error) => setProblem(error.message));
    load();
    const add = (entry) => {
      sequence.current += 1;
      setEvents((held) => [{ key: sequence.current, device, ...entry }, ...held].slice(0, FEED_MAX));
    };
    const note = (kind) => (levels, message) => message !== null && add({ kind, name: shadowOf(levels).name, message });
    // The first one says how it is, the others what changed.
    let connected;
    const presence = (_, message) => {
      if (message === null) return;
      if (connected !== undefined && connected !== message.connected) add({ kind: message.connected ? "connected" : "away", name: "", message: { timestamp: message.lastSeen } });
      connected = message.connected;
    };
    const topics = prefix(device, name);
    const offs = [
      // A store that was restored meanwhile has lower versions.
      live.onResume(() => newest.forget()),
      live.onResume(load),
      live.onResume(() => setGaps((count) => count + 1)),
      live.on(`${topics}/document`, (_, message) => take(message)),
      live.on(`shadow/${device}/presence`, presence),
      ...["accepted", "rejected"].flatMap((kind) => [live.on(`shadow/${device}/update/${kind}`, note(kind)), live.on(`shadow/${device}/name/+/update/${kind}`, note(kind))]),
    ];
    return () => offs.forEach((off) => off());
  }, []);

  const keep = (next) => (next ? drafts.set(key, next) : drafts.delete(key));
  const setTab = (next) => {
    setShownTab(next);
    history.replaceState(null, "", deviceAddress(device, name, { tab: next === "state" ? "" : next }));
  };
  const needsName = session.method !== "anonymous";
  const edit = (section, value) => {
    const next = draft ?? { section, version: shadow?.version ?? 0, base: shadow?.state?.[section] ?? {}, text: JSON.stringify(value, null, 2) };
    keep(next);
    setDraft(next);
  };
  const close = () => {
    keep(null);
    setDraft(null);
  };
  // The keyboard was in the editor that is closed.
  const [opener, edited] = [useRef(null), useRef(null)];
  useEffect(() => {
    if (edited.current && !draft) opener.current?.focus();
    edited.current = draft;
  }, [draft]);
  const rows = useMemo(() => (shadow ? fields(shadow.state) : []), [shadow]);
  return (
    <section aria-labelledby="device-title">
      <div class="title">
        <a class="back" href={fleetAddress()} aria-label="Back to the fleet">←</a>
        <h1 id="device-title">{device}</h1>
        <span class="muted"><span class={`dot ${presence(info.connected)}`} aria-hidden="true" />{presence(info.connected)}</span>
        {shadow && <span class="badge num" data-version={shadow.version}>version {count(shadow.version)}</span>}
        {shadow && <SyncBadge shadow={shadow} rows={rows} />}
        <span class="spring" />
        {shadow && writable?.all && <button onClick={() => setDialog("delete")}>Delete</button>}
        {writable?.desired && names.length > 0 && <button onClick={() => setDialog("create")}>Add a shadow</button>}
        {writable && !writable.desired && !writable.tags ? (
          <span class="muted">You may read this, not change it.</span>
        ) : (
          <button class="primary" ref={opener} disabled={shadow === undefined || !writable?.desired || draft !== null} onClick={() => edit("desired", shadow?.state?.desired ?? {})}>Edit desired</button>
        )}
      </div>
      <DeviceInfo info={info} now={now} />
      {names.length > 1 && (
        <nav class="names" aria-label="Shadows of this device">
          {names.map((other) => (
            <a key={other} href={deviceAddress(device, other)} aria-current={other === name ? "page" : undefined}>{other || "classic"}</a>
          ))}
        </nav>
      )}
      {problem && <p class="problem" role="alert">{problem}</p>}
      {shadow === null && <p class="card empty">There is no shadow here.{writable?.desired && <> Editing <em>desired</em> creates it.</>}</p>}
      {draft && <Editor draft={draft} device={device} name={name} shadow={shadow} needsName={needsName} onText={(text) => keep({ ...draft, text })} onClose={close} />}
      <Tabs tab={tab} setTab={setTab} />
      <div role="tabpanel" id="panel" aria-labelledby={`tab-${tab}`}>
        {shadow && tab === "state" && <State shadow={shadow} rows={rows} now={now} onTags={writable?.tags && draft === null ? () => { edit("tags", shadow.state.tags ?? {}); scrollTo(0, 0); } : undefined} />}
        {tab === "history" && <History device={device} name={name} version={shadow?.version} writable={writable?.desired} editing={draft !== null} onRestore={(desired) => { edit("desired", desired); scrollTo(0, 0); }} />}
        {shadow && tab === "charts" && <Charts key={gaps} device={device} name={name} shadow={shadow} live={live} />}
        {tab === "activity" && <Activity key={gaps} device={device} name={name} events={events} />}
        {shadow && tab === "json" && <JsonView device={device} name={name} shadow={shadow} needsName={needsName} />}
      </div>
      {dialog === "delete" && <DeleteDevice device={device} name={name} names={names} onClose={() => setDialog("")} onDone={() => (location.hash = fleetAddress())} />}
      {dialog === "create" && <CreateDevice device={device} onClose={() => setDialog("")} />}
    </section>
  );
}

function Tabs({ tab, setTab }) {
  const keys = Object.keys(TABS);
  const press = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = keys[(keys.indexOf(tab) + step + keys.length) % keys.length];
    setTab(next);
    document.getElementById(`tab-${next}`).focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label="Parts of the shadow" onKeyDown={press}>
      {keys.map((key) => (
        <button key={key} id={`tab-${key}`} role="tab" aria-selected={tab === key} aria-controls="panel" tabIndex={tab === key ? 0 : -1} onClick={() => setTab(key)}>{TABS[key]}</button>
      ))}
    </div>
  );
}

/** The badge that shows whether the device is as desired, which a reader of a part cannot know. */
function SyncBadge({ shadow, rows }) {
  if (shadow.state.delta) return <span class="badge warn">drifting</span>;
  if (rows.some((row) => row.hidden)) return <span class="badge" title="You may not read all that the device reports.">partly visible</span>;
  return <span class="badge good">in sync</span>;
}

function State({ shadow, rows, now, onTags }) {
  const { tags } = shadow.state;
  // What was set since is shown to be new.
  const { current: opened } = useRef(shadow.version);
  return (
    <>
      <table class="state card">
        <caption class="hidden">Desired and reported state, field by field</caption>
        <thead><tr><th scope="col">Field</th><th scope="col">Desired</th><th scope="col">Reported</th></tr></thead>
        <tbody>
          {rows.map(({ path, differs, hidden }) => (
            <tr key={path} class={differs ? "differs" : undefined}>
              <th scope="row">{field(path)}{differs && <span class="mark" title="Desired and reported differ"> ≠<span class="hidden"> differs</span></span>}</th>
              <Cell label="Desired" section="desired" path={path} shadow={shadow} now={now} opened={opened} />
              <Cell label="Reported" section="reported" path={path} shadow={shadow} now={now} opened={opened} hidden={hidden} />
            </tr>
          ))}
          {rows.length === 0 && <tr><td colSpan={3} class="empty">Nothing is desired or reported.</td></tr>}
        </tbody>
      </table>
      {(tags || onTags) && (
        <div class="card tags">
          <div class="title"><h2>Tags</h2><span class="spring" />{onTags && <button class="quiet" onClick={onTags}>Edit tags</button>}</div>
          {tags ? <dl>{[...leaves(tags)].map(([path, value]) => <div key={path}><dt>{field(path)}</dt><dd><code>{shown(value)}</code></dd></div>)}</dl> : <p class="muted">None. Tags are notes about the device, which it does not see.</p>}
        </div>
      )}
    </>
  );
}

function Cell({ label, section, path, shadow, now, opened, hidden = false }) {
  const value = at(shadow.state[section], path);
  const stamp = at(shadow.metadata?.[section], path);
  const missing = value === undefined || (isObject(value) && Object.keys(value).length > 0);
  return (
    <td data-label={label}>
      {missing ? <span class="muted">{hidden ? "not visible" : "—"}</span> : <code key={stamp?.version} class={stamp?.version > opened ? "fresh" : undefined}>{shown(value)}</code>}
      {!missing && stamp?.version !== undefined && (
        <small title={clock(stamp.timestamp)}>{stamp.by} · {ago(stamp.timestamp, now)} · v{count(stamp.version)}</small>
      )}
    </td>
  );
}
