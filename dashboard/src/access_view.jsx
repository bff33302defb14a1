// Who one is, what one may and uses, and the same of other principals for who has all rights.

import { useEffect, useState } from "preact/hooks";

import { addressOf } from "./address.js";
import { count, plural } from "./format.js";
import { ask } from "./http.js";
import { useList } from "./pages.js";

export function AccessView({ params, session }) {
  const [name, setName] = useState(params.principal ?? "");
  const { entries } = useList("/v1/sessions?connected=true", "sessions");
  const others = [...new Set(entries.map(({ principal }) => principal))].filter((principal) => principal !== session.principal);
  const show = (next) => {
    setName(next);
    history.replaceState(null, "", addressOf("access", [], { principal: next }));
  };
  return (
    <section aria-labelledby="access-title">
      <div class="title"><h1 id="access-title">Users and roles</h1></div>
      <div class="card guide">
        <h2>You</h2>
        <dl class="facts">
          <div><dt>Principal</dt><dd>{session.principal}</dd></div>
          <div><dt>Signed in by</dt><dd>{session.method}</dd></div>
          <div><dt>Roles</dt><dd>{session.roles.join(", ") || "none"}</dd></div>
        </dl>
        <Usage principal={session.principal} />
      </div>
      <div class="card guide">
        <h2>Another principal</h2>
        <form class="line" onSubmit={(event) => { event.preventDefault(); show(new FormData(event.target).get("principal").trim()); }}>
          <input name="principal" aria-label="Principal" placeholder="boss, or anonymous/lamp-1" list="principals" defaultValue={name} autocapitalize="none" spellcheck={false} />
          <datalist id="principals">{others.map((principal) => <option key={principal} value={principal} />)}</datalist>
          <button>Show</button>
        </form>
        {name ? <Usage key={name} principal={name} /> : <p class="muted">Its use of its limits; for who has all rights.</p>}
      </div>
      <p class="muted">Users, roles and rules are in the configuration. The service shows no list of them over HTTP: <code>umbrad passwd list</code> lists the users, and <code>umbrad auth explain</code> says what a principal may, and by which rule.</p>
    </section>
  );
}

const ROWS = { memory: "Memory, bytes", sessions: "MQTT sessions", filters: "Filters", streams: "Event streams and waits", newShadows: "New shadows today" };

function Usage({ principal }) {
  const [usage, setUsage] = useState(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    ask("GET", `/v1/principals/${encodeURIComponent(principal)}`).then(setUsage, (error) => setProblem(error.message));
  }, []);
  if (problem) return <p class="muted" role="status">{problem}</p>;
  if (usage === null) return <p class="muted" role="status">Loading…</p>;
  return (
    <>
      <div class="scroll" tabIndex={0} role="region" aria-label={`Limits of ${principal}`}>
        <table class="list">
          <thead><tr><th scope="col">Limit</th><th scope="col" class="num">Used</th><th scope="col" class="num">Of</th></tr></thead>
          <tbody>
            {Object.entries(ROWS).map(([key, title]) => <tr key={key}><th scope="row">{title}</th><td class="num">{count(usage[key].used)}</td><td class="num">{count(usage[key].limit)}</td></tr>)}
            <tr><th scope="row">Work, units a second</th><td class="num">{usage.throttledForMs > 0 ? `waits for ${count(usage.throttledForMs)} ms` : "below"}</td><td class="num">{count(usage.workPerSecond)}</td></tr>
          </tbody>
        </table>
      </div>
      <p class="muted">{plural(usage.connected, "MQTT connection")}. {usage.throttled > 0 ? `It was slowed down ${count(usage.throttled)} times.` : "It was never slowed down."} <a href={addressOf("clients", [], { prefix: principal })}>Its sessions</a></p>
    </>
  );
}
