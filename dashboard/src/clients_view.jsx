// MQTT sessions of all clients: who is connected, what waits for whom, and how to end them.

import { Fragment } from "preact";
import { useEffect, useState } from "preact/hooks";

import { addressOf } from "./address.js";
import { Dialog } from "./dialog.jsx";
import { ago, clock, count, plural } from "./format.js";
import { useNow } from "./frames.js";
import { ask } from "./http.js";
import { useList } from "./pages.js";

const AGAIN_MS = 5000;

const pathOf = ({ principal, client }) => `/v1/sessions/${encodeURIComponent(principal)}/${encodeURIComponent(client)}`;
const keyOf = ({ principal, client }) => JSON.stringify([principal, client]);

export function ClientsView({ params }) {
  const [filter, setFilter] = useState({ prefix: params.prefix ?? "", connected: params.connected ?? "" });
  const [open, setOpen] = useState(null);
  const [ending, setEnding] = useState(null);
  const now = useNow(5000);
  const change = (part) => {
    const next = { ...filter, ...part };
    setFilter(next);
    history.replaceState(null, "", addressOf("clients", [], next));
  };
  const search = new URLSearchParams(Object.entries(filter).filter(([, value]) => value !== ""));
  const { entries, loading, problem, more, again, unreachable } = useList(`/v1/sessions?${search}`, "sessions");
  const isCluster = entries.some(({ node }) => node !== undefined);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && !loading && again(), AGAIN_MS);
    return () => clearInterval(timer);
  });
  return (
    <section aria-labelledby="clients-title">
      <div class="title">
        <h1 id="clients-title">Clients</h1>
        <span class="muted" role="status">{loading && entries.length === 0 ? "loading…" : `${plural(entries.length, "session")}${more ? " and more" : ""}`}</span>
      </div>
      <div class="filters" role="search">
        <input type="search" aria-label="Principals that begin with" placeholder="Principals that begin with …" value={filter.prefix} autocapitalize="none" spellcheck={false} onInput={(event) => change({ prefix: event.target.value })} />
        <select aria-label="Connection" value={filter.connected} onChange={(event) => change({ connected: event.target.value })}>
          <option value="">All sessions</option>
          <option value="true">Connected</option>
          <option value="false">Not connected</option>
        </select>
      </div>
      {problem && <p class="problem" role="alert">{problem.message}</p>}
      {unreachable.length > 0 && <p class="problem" role="alert">Not answered, so their sessions are missing: node {unreachable.join(", ")}.</p>}
      {entries.length > 0 && (
        <div class="card scroll" tabIndex={0} role="region" aria-label="Sessions">
          <table class="list">
            <thead><tr><th scope="col">Principal</th><th scope="col">Client id</th>{isCluster && <th scope="col" class="num">Node</th>}<th scope="col">Connection</th><th scope="col">Address</th><th scope="col">Since</th><th scope="col" class="num">Waiting</th><th scope="col" class="num">Filters</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
            <tbody>
              {entries.map((session) => (
                <Fragment key={keyOf(session)}>
                  <tr>
                    <th scope="row">{session.principal}</th>
                    <td>{session.client}</td>
                    {isCluster && <td class="num">{session.node}</td>}
                    <td><span class={`dot ${session.connected ? "connected" : ""}`} aria-hidden="true" />{session.connected ? "connected" : "away"}</td>
                    <td>{session.address ?? "—"} {session.protocol && <small>{session.protocol}</small>}</td>
                    <td><Since session={session} now={now} /></td>
                    <td class="num">{count(session.queued)}{session.inFlight > 0 && <small> + {count(session.inFlight)} sent</small>}</td>
                    <td class="num">{count(session.filters)}</td>
                    <td class="buttons">
                      <button class="quiet" aria-expanded={open === keyOf(session)} aria-label={`Filters of ${session.client}`} onClick={() => setOpen(open === keyOf(session) ? null : keyOf(session))}>Filters</button>
                      <button class="quiet" aria-label={`Disconnect ${session.client}`} onClick={() => setEnding(session)}>Disconnect</button>
                    </td>
                  </tr>
                  {open === keyOf(session) && <tr><td colSpan={isCluster ? 9 : 8}><Filters session={session} /></td></tr>}
                </Fragment>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {entries.length === 0 && !loading && !problem && <p class="card empty">No session is like this.</p>}
      {more && <div><button onClick={more} disabled={loading}>More sessions</button></div>}
      {ending && <Ending session={ending} onClose={() => setEnding(null)} onDone={() => { setEnding(null); again(); }} />}
    </section>
  );
}

function Since({ session, now }) {
  const { connected, connectedSince, disconnectedSince, expires } = session;
  if (connected) return <span title={clock(connectedSince)}>{ago(connectedSince, now)}</span>;
  return <>{disconnectedSince && <span title={clock(disconnectedSince)}>{ago(disconnectedSince, now)}</span>} {expires && <small>expires {clock(expires)}</small>}</>;
}

function Filters({ session }) {
  const [found, setFound] = useState(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    ask("GET", pathOf(session)).then(setFound, (error) => setProblem(error.message));
  }, []);
  if (problem) return <p class="problem" role="alert">{problem}</p>;
  if (found === null) return <p class="muted" role="status">Loading…</p>;
  if (found.filters.length === 0) return <p class="muted">It subscribes to nothing.</p>;
  return <ul class="filters-of">{found.filters.map(({ filter, qos }) => <li key={filter}><code>{filter}</code> <small>QoS {qos}</small></li>)}</ul>;
}

/** A session is ended whole, or all connections of its principal. */
function Ending({ session, onClose, onDone }) {
  const [how, setHow] = useState("session");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const { principal, client } = session;
  const end = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      if (how === "session") await ask("DELETE", pathOf(session));
      else await ask("DELETE", `/v1/principals/${encodeURIComponent(principal)}/connections?keep_sessions=${how === "connections"}`);
      onDone();
    } catch (error) {
      setProblem(error.message);
    }
    setBusy(false);
  };
  const way = (key, text, note) => (
    <label class={`way ${how === key ? "chosen" : ""}`}><span><input type="radio" name="how" value={key} checked={how === key} onChange={() => setHow(key)} /> {text}</span><small>{note}</small></label>
  );
  return (
    <Dialog title={`Disconnect ${client}?`} onCancel={onClose}>
      <form class="form" onSubmit={end}>
        {way("session", "End this session", `The connection is closed, and the session is removed with ${plural(session.queued, "waiting message")}.`)}
        {way("connections", `Close all connections of ${principal}`, "Sessions wait for their clients, as after any lost connection. Sign-ins and event streams end.")}
        {way("all", `End everything of ${principal}`, "All its connections, sessions, sign-ins and event streams.")}
        <p class="muted">A client may connect again at once. To keep it out, remove its user or its role.</p>
        <p class="problem" role="alert">{problem}</p>
        <div class="actions">
          <button class="danger" disabled={busy}>{busy ? "Disconnecting…" : "Disconnect"}</button>
          <button type="button" onClick={onClose}>Cancel</button>
        </div>
      </form>
    </Dialog>
  );
}
