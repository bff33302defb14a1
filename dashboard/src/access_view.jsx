// The principal, its roles and the use of its limits; with all rights also those of others, and all users and roles.

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
        {name ? <Usage key={name} principal={name} /> : <p class="muted">The use of its limits, which users with all rights may see.</p>}
      </div>
      <Roles />
      <Users />
      <p class="muted">They are changed in the configuration and by <code>umbrad passwd</code>; <code>umbrad auth explain</code> says what a principal may, and by which rule.</p>
    </section>
  );
}

const LIMITS = { memory: "bytes of memory", workPerSecond: "units of work a second", sessions: "sessions", filters: "filters", newShadows: "new shadows a day" };
const LISTS = { devices: "Devices", names: "Shadows", operations: "Operations", read: "Reads", write: "Writes", publish: "Publishes", subscribe: "Subscribes", administer: "Administers" };

/** The roles in use, each with its limits, grants and rules. */
function Roles() {
  const [roles, setRoles] = useState(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    ask("GET", "/v1/roles").then((answer) => setRoles(answer.roles), (error) => setProblem(error.message));
  }, []);
  return (
    <div class="card guide">
      <h2>Roles</h2>
      {roles === null && <p class="muted" role="status">{problem || "Loading…"}</p>}
      {roles?.map(({ role, limits, rules, grants }) => (
        <details key={role}>
          <summary>{role}</summary>
          <p class="muted">At most {Object.entries(LIMITS).map(([key, unit]) => `${count(limits[key])} ${unit}`).join(", ")}.</p>
          {grants.map(({ principals, by, devices }, index) => (
            <p key={index}>Granted to {principals.join(", ") || "everybody"}{by.length > 0 && ` by ${by.join(", ")}`}{devices.length > 0 && ` for ${devices.join(", ")}`}.</p>
          ))}
          {rules.map((rule) => (
            <dl class="facts" key={rule.origin}>
              <div><dt>Rule</dt><dd>{rule.origin}</dd></div>
              {Object.entries(LISTS).filter(([key]) => rule[key]?.length > 0).map(([key, title]) => <div key={key}><dt>{title}</dt><dd>{rule[key].map((entry) => entry || "classic").join(", ")}</dd></div>)}
              {rule.operations === undefined && <div><dt>Operations</dt><dd>all</dd></div>}
            </dl>
          ))}
        </details>
      ))}
    </div>
  );
}

/** The users of the file, with their roles. */
function Users() {
  const { entries, loading, problem, more } = useList("/v1/users", "users");
  return (
    <div class="card guide">
      <h2>Users</h2>
      {problem && <p class="muted" role="status">{problem.message}</p>}
      {!problem && entries.length === 0 && <p class="muted" role="status">{loading ? "Loading…" : "There are no users with passwords."}</p>}
      {entries.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Users">
          <table class="list">
            <thead><tr><th scope="col">User</th><th scope="col">Roles</th></tr></thead>
            <tbody>{entries.map(({ user, roles }) => <tr key={user}><th scope="row"><a href={addressOf("access", [], { principal: user })}>{user}</a></th><td>{roles.join(", ") || "none"}</td></tr>)}</tbody>
          </table>
        </div>
      )}
      {more && <button onClick={more} disabled={loading}>More</button>}
    </div>
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
