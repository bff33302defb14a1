// One shadow: desired beside reported, live; its history, its charts, what is decided about it, and the editor.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { Activity } from "./activity.jsx";
import { deviceAddress } from "./address.js";
import { Charts } from "./charts.jsx";
import { DeviceInfo, useDeviceInfo } from "./device_info.jsx";
import { Editor } from "./editor.jsx";
import { ago, clock, count, field, presence, shown } from "./format.js";
import { useNow } from "./frames.js";
import { fleetAddress } from "./fleet_view.jsx";
import { History } from "./history.jsx";
import { ask, mayWrite, shadowPath } from "./http.js";
import { prefix } from "./live.js";
import { at, fields, isObject, leaves } from "./state.js";

const TABS = { state: "State", history: "History", charts: "Charts", activity: "Activity" };
const FEED_MAX = 100;

export function DeviceView({ device, name, live, drafts }) {
  const key = `${device}~${name}`;
  const [shadow, setShadow] = useState(undefined);
  const [problem, setProblem] = useState("");
  const [tab, setTab] = useState("state");
  const [draft, setDraft] = useState(drafts.get(key) ?? null);
  const [writable, setWritable] = useState(undefined);
  const [events, setEvents] = useState([]);
  /** How often something may have been missed: what was read of the past is read again. */
  const [gaps, setGaps] = useState(0);
  const info = useDeviceInfo(device, live);
  const names = (info.shadows ?? []).map((other) => other.name ?? "");
  const sequence = useRef(0);
  const now = useNow(5000);

  const take = (next) => setShadow((held) => (next && held && held.version > next.version ? held : next));
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
          setWritable(await mayWrite(device, name, found !== null));
        })
        .catch((error) => setProblem(error.message));
    load();
    const note = (kind) => (_, message) => {
      if (message === null) return;
      sequence.current += 1;
      const entry = { key: sequence.current, kind, device, name, message };
      setEvents((held) => [entry, ...held].slice(0, FEED_MAX));
    };
    const topics = prefix(device, name);
    const offs = [
      live.onResume(load),
      live.onResume(() => setGaps((count) => count + 1)),
      live.on(`${topics}/document`, (_, message) => (message ? take(message) : setShadow(null))),
      live.on(`${topics}/update/accepted`, note("accepted")),
      live.on(`${topics}/update/rejected`, note("rejected")),
    ];
    return () => offs.forEach((off) => off());
  }, []);

  const keep = (next) => (next ? drafts.set(key, next) : drafts.delete(key));
  const edit = (desired) => {
    const next = draft ?? { version: shadow?.version ?? 0, base: shadow?.state?.desired ?? {}, text: JSON.stringify(desired, null, 2) };
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
        {shadow && <Standing shadow={shadow} rows={rows} />}
        <span class="spring" />
        {writable === false ? (
          <span class="muted">You may read this, not change it.</span>
        ) : (
          <button class="primary" ref={opener} disabled={shadow === undefined || !writable || draft !== null} onClick={() => edit(shadow?.state?.desired ?? {})}>Edit desired</button>
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
      {shadow === null && <p class="card empty">There is no shadow here.{writable && <> Editing <em>desired</em> creates it.</>}</p>}
      {draft && <Editor draft={draft} device={device} name={name} shadow={shadow} onText={(text) => keep({ ...draft, text })} onClose={close} />}
      <Tabs tab={tab} setTab={setTab} />
      <div role="tabpanel" id="panel" aria-labelledby={`tab-${tab}`}>
        {shadow && tab === "state" && <State shadow={shadow} rows={rows} now={now} />}
        {tab === "history" && <History device={device} name={name} version={shadow?.version} writable={writable} editing={draft !== null} onRestore={(desired) => { edit(desired); scrollTo(0, 0); }} />}
        {shadow && tab === "charts" && <Charts key={gaps} device={device} name={name} shadow={shadow} live={live} />}
        {tab === "activity" && <Activity key={gaps} device={device} name={name} events={events} />}
      </div>
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

/** Whether the device is as desired: who does not see all of it cannot know. */
function Standing({ shadow, rows }) {
  if (shadow.state.delta) return <span class="badge warn">drifting</span>;
  if (rows.some((row) => row.hidden)) return <span class="badge" title="You may not read all that the device reports.">partly visible</span>;
  return <span class="badge good">in sync</span>;
}

function State({ shadow, rows, now }) {
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
      {tags && (
        <div class="card tags">
          <h2>Tags</h2>
          <dl>{[...leaves(tags)].map(([path, value]) => <div key={path}><dt>{field(path)}</dt><dd><code>{shown(value)}</code></dd></div>)}</dl>
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
