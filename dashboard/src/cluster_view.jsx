// The nodes of a cluster as the one that serves this page knows them, their log, and what is wrong.

import { useEffect, useState } from "preact/hooks";

import { differencesAt, duration, nodeState } from "./cluster.js";
import { ago, bytes, clock, count, plural } from "./format.js";
import { useNow } from "./frames.js";
import { ask } from "./http.js";

const AGAIN_MS = 2000;

export function ClusterView() {
  const [cluster, setCluster] = useState(null);
  const [problem, setProblem] = useState("");
  const now = useNow(1000);
  useEffect(() => {
    let timer;
    let over = false;
    // One request at a time: while NATS is away, an answer takes a second.
    const load = async () => {
      if (!document.hidden) {
        try {
          const found = await ask("GET", "/v1/cluster");
          if (over) return;
          setCluster(found);
          setProblem("");
        } catch (error) {
          if (!over) setProblem(error.message);
        }
      }
      if (!over) timer = setTimeout(load, AGAIN_MS);
    };
    load();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, []);
  return (
    <section aria-labelledby="cluster-title">
      <div class="title">
        <h1 id="cluster-title">Cluster</h1>
        {cluster && <Verdict problems={cluster.problems} />}
        {!cluster && !problem && <span class="muted" role="status">loading…</span>}
      </div>
      {problem && <p class="problem" role="alert">{problem}{cluster && " What follows is what was known before."}</p>}
      {cluster && (
        <>
          <Problems problems={cluster.problems} />
          <Facts cluster={cluster} now={now} />
          <Nodes cluster={cluster} />
          {cluster.log && <Log log={cluster.log} />}
        </>
      )}
    </section>
  );
}

function Verdict({ problems }) {
  const isBad = problems.some(({ severity }) => severity === "error");
  return (
    <span role="status">
      {problems.length === 0 ? <span class="badge good">all is well</span> : <span class={`badge ${isBad ? "bad" : "warn"}`}>{plural(problems.length, "problem")}</span>}
    </span>
  );
}

function Problems({ problems }) {
  if (problems.length === 0) return null;
  return (
    <ul class="card fill problems" aria-label="Problems">
      {problems.map(({ severity, message }) => (
        <li key={message}><span class={`badge ${severity === "error" ? "bad" : "warn"}`}>{severity}</span> <span>{message}.</span></li>
      ))}
    </ul>
  );
}

function Facts({ cluster: { node, decider, deciderSince, epoch, waiting, silentMs }, now }) {
  const since = deciderSince === undefined ? "since before this node was started" : <span title={clock(deciderSince)}>since {clock(deciderSince)}, {ago(deciderSince, now)}</span>;
  const facts = [
    ["This page is of", `node ${node}`],
    ["Decides", decider === undefined ? "nobody" : <>node {decider}, {since}</>],
    ["Epoch", count(epoch)],
    ["Updates that wait here", count(waiting)],
    ["Last record", `${duration(silentMs)} ago`],
  ];
  return <dl class="facts">{facts.map(([title, value]) => <div key={title}><dt>{title}</dt><dd class="num">{value}</dd></div>)}</dl>;
}

function Nodes({ cluster }) {
  return (
    <div class="card scroll" tabIndex={0} role="region" aria-label="Nodes">
      <table class="list">
        <thead><tr><th scope="col">Node</th><th scope="col">State</th><th scope="col" class="num">Applied record</th><th scope="col" class="num">Behind by</th><th scope="col">Version</th><th scope="col">Files and settings</th></tr></thead>
        <tbody>
          {cluster.nodes.map((node) => {
            const { word, good } = nodeState(node);
            const differing = differencesAt(node.node, cluster);
            const files = differing.length > 0 ? <><span class="badge warn">not the same</span> {differing.join(", ")}</> : good ? "the same" : "—";
            return (
              <tr key={node.node}>
                <th scope="row">{node.node} {node.node === cluster.decider && <span class="badge busy">decides</span>}</th>
                <td><span class={`dot ${good ? "connected" : ""}`} aria-hidden="true" />{word}</td>
                <td class="num">{count(node.applied)}</td>
                <td class="num">{plural(node.lag, "record")}</td>
                <td>{node.version || "—"}</td>
                <td class="reason">{files}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function Log({ log: { first, last, records, bytes: size, servers } }) {
  return (
    <>
      <h2>Log</h2>
      <dl class="facts">
        <div><dt>Records</dt><dd class="num">{count(records)}{records > 0 && `, from ${count(first)} to ${count(last)}`}</dd></div>
        <div><dt>Size</dt><dd class="num">{bytes(size)}</dd></div>
        <div><dt>Replicas</dt><dd class="num">{count(servers.length)}</dd></div>
      </dl>
      <div class="card scroll" tabIndex={0} role="region" aria-label="NATS servers">
        <table class="list">
          <thead><tr><th scope="col">NATS server</th><th scope="col">State</th><th scope="col">Version</th><th scope="col">Syncs</th><th scope="col" class="num">Largest message</th></tr></thead>
          <tbody>
            {servers.map(({ name, leader, current, version, syncInterval, maxPayload }) => (
              <tr key={name}>
                <th scope="row">{name} {leader && <span class="badge busy">leads</span>}</th>
                <td><span class={`dot ${current ? "connected" : ""}`} aria-hidden="true" />{current ? "up to date" : "away or behind"}</td>
                <td>{version ?? "—"}</td>
                <td>{syncInterval === undefined ? "—" : syncInterval === "always" ? "always" : `every ${syncInterval}`}</td>
                <td class="num">{maxPayload === undefined ? "—" : bytes(maxPayload)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
