// All rollouts and bulk changes, the newest first; one of them; and a new one.

import { useEffect } from "preact/hooks";

import { addressOf } from "./address.js";
import { ago, clock, count, plural } from "./format.js";
import { useNow } from "./frames.js";
import { useList } from "./pages.js";
import { failuresOf, isFinal } from "./rollout.js";
import { RolloutForm } from "./rollout_form.jsx";
import { RolloutView, StateBadge } from "./rollout_view.jsx";

const AGAIN_MS = 3000;

export function RolloutsView({ parts: [id], params, vocabulary }) {
  if (id === "new") return <RolloutForm params={params} vocabulary={vocabulary} />;
  return id ? <RolloutView key={id} id={id} /> : <Rollouts />;
}

function Rollouts() {
  const now = useNow(5000);
  const { entries, loading, problem, more, again } = useList("/v1/rollouts", "rollouts");
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && !loading && entries.some(({ state }) => !isFinal(state)) && again(), AGAIN_MS);
    return () => clearInterval(timer);
  });
  const sorted = [...entries].sort((a, b) => b.createdAt - a.createdAt);
  return (
    <section aria-labelledby="rollouts-title">
      <div class="title">
        <h1 id="rollouts-title">Rollouts</h1>
        <span class="muted" role="status">{loading && entries.length === 0 ? "loading…" : `${plural(entries.length, "rollout")}${more ? " and more" : ""}`}</span>
        <span class="spring" />
        <a class="button primary" href="#/rollouts/new">New rollout</a>
      </div>
      {problem && <p class="problem" role="alert">{problem.message}</p>}
      {entries.length > 0 && (
        <div class="card scroll" tabIndex={0} role="region" aria-label="Rollouts">
          <table class="list">
            <thead><tr><th scope="col">Rollout</th><th scope="col">State</th><th scope="col" class="num">Devices</th><th scope="col" class="num">Converged</th><th scope="col" class="num">Failures</th><th scope="col">Wave</th><th scope="col">By</th><th scope="col">Began</th></tr></thead>
            <tbody>
              {sorted.map((rollout) => (
                <tr key={rollout.id}>
                  <th scope="row"><a href={addressOf("rollouts", [rollout.id])}>{rollout.id}</a></th>
                  <td><StateBadge state={rollout.state} /></td>
                  <td class="num">{count(rollout.devices)}</td>
                  <td class="num">{count(rollout.counts.converged)}</td>
                  <td class="num">{count(failuresOf(rollout.counts))}</td>
                  <td class="num">{Math.min(rollout.wave + 1, rollout.waves.length)} of {rollout.waves.length}</td>
                  <td>{rollout.createdBy}</td>
                  <td><span title={clock(rollout.createdAt)}>{ago(rollout.createdAt, now)}</span></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {entries.length === 0 && !loading && !problem && <p class="card empty">A rollout changes a set of devices in waves, and stops when too many fail. There is none yet.</p>}
      {more && <div><button onClick={more} disabled={loading}>More rollouts</button></div>}
    </section>
  );
}
