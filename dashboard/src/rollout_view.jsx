// One rollout: its waves as they go on, its devices with the reasons of failures, and the commands for it.

import { useEffect, useRef, useState } from "preact/hooks";

import { addressOf, deviceAddress } from "./address.js";
import { Dialog } from "./dialog.jsx";
import { ago, clock, count, plural } from "./format.js";
import { useNow } from "./frames.js";
import { ask } from "./http.js";
import { useList } from "./pages.js";
import { actionsOf, DEVICE_STATES, failuresOf, isFinal, wavesOf } from "./rollout.js";
import { follow } from "./sse.js";

const TONES = { running: "busy", paused: "warn", completed: "good", aborted: "bad", cancelled: "warn", "rolling-back": "busy", "rolled-back": "warn" };
/** The list of devices is read again at most this often while it changes. */
const LIST_MS = 1000;

export const StateBadge = ({ state }) => <span class={`badge ${TONES[state] ?? ""}`}>{state}</span>;

const ACTIONS = {
  pause: { label: "Pause" },
  resume: { label: "Resume" },
  cancel: { label: "Cancel", question: "Cancel this rollout?", text: "No further device is changed. What is changed stays as it is, and can be rolled back." },
  rollback: { label: "Roll back", question: "Roll back this rollout?", text: "Each device gets the values back that this rollout replaced, unless somebody else has changed them since: these stay." },
};

export function RolloutView({ id }) {
  const path = `/v1/rollouts/${encodeURIComponent(id)}`;
  const [rollout, setRollout] = useState(null);
  const [problem, setProblem] = useState("");
  const [asking, setAsking] = useState("");
  const [busy, setBusy] = useState(false);
  const now = useNow(5000);
  const ended = rollout && isFinal(rollout.state);
  const take = (next) => setRollout((held) => ({ ...held, reason: undefined, ...next }));
  useEffect(() => {
    ask("GET", path).then(take, (error) => setProblem(error.message));
  }, []);
  useEffect(() => {
    if (rollout === null || ended) return undefined;
    const stop = new AbortController();
    follow(`${path}/events`, (name, data) => name === "progress" && take(data), stop.signal).catch((error) => setProblem(error.message));
    return () => stop.abort();
  }, [rollout === null, ended]);
  const command = async (action) => {
    setBusy(true);
    setAsking("");
    try {
      take(await ask("POST", `${path}/${action}`));
      setProblem("");
    } catch (error) {
      setProblem(error.message);
    }
    setBusy(false);
  };
  const remove = () => ask("DELETE", path).then(() => (location.hash = "#/rollouts"), (error) => setProblem(error.message));

  return (
    <section aria-labelledby="rollout-title">
      <div class="title">
        <a class="back" href="#/rollouts" aria-label="Back to the rollouts">←</a>
        <h1 id="rollout-title">{id}</h1>
        {rollout && <span role="status"><StateBadge state={rollout.state} /></span>}
        <span class="spring" />
        {rollout && actionsOf(rollout.state).map((action) => (
          <button key={action} disabled={busy} onClick={() => (ACTIONS[action].question ? setAsking(action) : command(action))}>{ACTIONS[action].label}</button>
        ))}
        {ended && <button class="quiet" onClick={remove}>Delete this record</button>}
      </div>
      {problem && <p class="problem" role="alert">{problem}</p>}
      {rollout?.reason && <p class="problem" role="status">{rollout.reason}</p>}
      {rollout && (
        <>
          <Facts rollout={rollout} now={now} />
          <Waves rollout={rollout} />
          <Devices path={path} rollout={rollout} now={now} />
          <details class="card fill"><summary>Description</summary><pre tabIndex={0}><code>{JSON.stringify({ ...rollout.spec, devices: rollout.spec?.query === undefined ? `${plural(rollout.devices, "device")}, as below` : undefined }, null, 2)}</code></pre></details>
        </>
      )}
      {asking && (
        <Dialog title={ACTIONS[asking].question} onCancel={() => setAsking("")}>
          <p>{ACTIONS[asking].text}</p>
          <div class="actions">
            <button class="danger" onClick={() => command(asking)}>{ACTIONS[asking].label}</button>
            <button onClick={() => setAsking("")}>Go on</button>
          </div>
        </Dialog>
      )}
    </section>
  );
}

function Facts({ rollout: { spec = {}, createdBy, createdAt, devices, counts }, now }) {
  const facts = [
    ["Devices", count(devices)],
    spec.query !== undefined && ["Query", <a href={addressOf("fleet", [], { q: spec.query })}>{spec.query}</a>],
    ["By", createdBy],
    ["Began", <span title={clock(createdAt)}>{ago(createdAt, now)}</span>],
    ["Failures", `${count(failuresOf(counts))}${spec.abort?.failures !== undefined ? `, stops at more than ${count(spec.abort.failures)}` : ""}${spec.abort?.percent !== undefined ? `, stops at more than ${spec.abort.percent} %` : ""}`],
    spec.rate && ["Rate", `${count(spec.rate)} a second`],
  ].filter(Boolean);
  return <dl class="facts">{facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>;
}

function Waves({ rollout }) {
  return (
    <ol class="waves" aria-label="Waves">
      {wavesOf(rollout).map(({ state, from, to, sent, finished }, i) => (
        <li key={i} class={`card wave ${state}`}>
          <b>Wave {i + 1}</b> <span class="muted">{state}</span>
          <progress value={finished} max={to - from} aria-label={`Wave ${i + 1}: ${finished} of ${to - from} finished`} />
          <small class="num">{count(finished)} of {plural(to - from, "device")}{sent > finished && `, ${count(sent - finished)} on their way`}</small>
        </li>
      ))}
    </ol>
  );
}

function Devices({ path, rollout, now }) {
  const [state, setState] = useState("");
  const { entries, loading, problem, more, again } = useList(`${path}/devices?${new URLSearchParams(state && { state })}`, "devices");
  const counts = JSON.stringify(rollout.counts);
  const timer = useRef(undefined);
  const isFirst = useRef(true);
  const newest = useRef(again);
  newest.current = again;
  useEffect(() => {
    if (isFirst.current) return void (isFirst.current = false);
    timer.current ??= setTimeout(() => {
      timer.current = undefined;
      newest.current();
    }, LIST_MS);
  }, [counts]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const titles = Object.fromEntries(DEVICE_STATES.map(([name, , text, tone]) => [name, [text, tone]]));
  return (
    <>
      <div class="chips" role="group" aria-label="Devices by state">
        <button aria-pressed={state === ""} onClick={() => setState("")}>All <b class="num">{count(rollout.devices)}</b></button>
        {DEVICE_STATES.filter(([name, key]) => rollout.counts[key] > 0 || name === state).map(([name, key, text, tone]) => (
          <button key={name} class={tone} aria-pressed={state === name} onClick={() => setState(state === name ? "" : name)}>{text} <b class="num">{count(rollout.counts[key])}</b></button>
        ))}
      </div>
      {problem && <p class="problem" role="alert">{problem.message}</p>}
      {entries.length > 0 && (
        <div class="card scroll" tabIndex={0} role="region" aria-label="Devices">
          <table class="list">
            <thead><tr><th scope="col">Device</th><th scope="col">State</th><th scope="col">Reason</th><th scope="col" class="num">Wave</th><th scope="col" class="num">Version</th><th scope="col">Changed</th></tr></thead>
            <tbody>
              {entries.map((entry) => (
                <tr key={entry.device}>
                  <th scope="row"><a href={deviceAddress(entry.device, rollout.spec?.shadow)}>{entry.device}</a></th>
                  <td><span class={`badge ${titles[entry.state]?.[1] ?? ""}`}>{titles[entry.state]?.[0] ?? entry.state}</span></td>
                  <td class="reason">{entry.reason}</td>
                  <td class="num">{entry.wave + 1}</td>
                  <td class="num">{entry.version === undefined ? "—" : count(entry.version)}</td>
                  <td>{entry.updatedAt && <span title={clock(entry.updatedAt)}>{ago(entry.updatedAt, now)}</span>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {entries.length === 0 && !loading && !problem && <p class="card empty">No device is in this state.</p>}
      {more && <div><button onClick={more} disabled={loading}>More devices</button></div>}
    </>
  );
}
