// The service: its version, its state, where it listens, and the keys of this page.

import { useEffect, useState } from "preact/hooks";

import { webSocketUrl } from "./command.jsx";
import { ago, bytes, count } from "./format.js";
import { ask } from "./http.js";
import { samples } from "./metrics.js";

const AGAIN_MS = 5000;

export function AboutView() {
  const [about, setAbout] = useState(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const load = () => {
      if (document.hidden) return;
      read().then(setAbout, (error) => setProblem(error.message));
    };
    load();
    const timer = setInterval(load, AGAIN_MS);
    return () => clearInterval(timer);
  }, []);
  return (
    <section aria-labelledby="about-title">
      <div class="title"><h1 id="about-title">About</h1></div>
      {problem && <p class="problem" role="alert">{problem}</p>}
      {about && (
        <div class="card guide">
          <dl class="pairs">
            <div><dt>Umbra</dt><dd>{about.version}</dd></div>
            <div><dt>State</dt><dd>{about.ready === "" ? <span class="badge good">ready</span> : <><span class="badge bad">not ready</span> {about.ready}</>}</dd></div>
            {about.listeners.map(({ host, port, tls, anonymous }) => <div key={`${host}:${port}`}><dt>MQTT{tls && " over TLS"}</dt><dd>{host ?? location.hostname}:{port} <small>{anonymous ? "anonymous clients too" : "with credentials"}</small></dd></div>)}
            <div><dt>MQTT over WebSocket</dt><dd>{webSocketUrl()}</dd></div>
            {about.figures.map(([title, value]) => <div key={title}><dt>{title}</dt><dd class="num">{value}</dd></div>)}
          </dl>
          {about.figures.length === 0 && <p class="muted">Its metrics need all rights.</p>}
          <p><a href="/openapi.json">Description of the HTTP API</a> · <a href="/metrics">Metrics</a></p>
        </div>
      )}
      <div class="card guide">
        <h2>Keys</h2>
        <dl class="pairs">
          {KEYS.map(([key, effect]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{effect}</dd></div>)}
        </dl>
      </div>
    </section>
  );
}

const KEYS = [
  ["/", "goes to the search of this view"],
  ["↓ in the query bar", "lists fields, or values after a colon; Enter or Tab takes one, Escape closes the list"],
  ["↑ ↓ Page Up Page Down Home End", "move in the list of devices; Enter opens one"],
  ["← →", "move between the tabs of a device, and between the values of a chart"],
  ["Ctrl + Enter", "saves an edit, or publishes a message"],
  ["Escape", "closes a dialog or a menu"],
];

async function read() {
  const [{ info }, ready, { listeners }, found] = await Promise.all([
    description(),
    ask("GET", "/readyz").then(() => "", (error) => error.message),
    ask("GET", "/session/mqtt"),
    fetch("/metrics", { cache: "no-store" }).then((response) => (response.ok ? response.text() : ""), () => ""),
  ]);
  const of = samples(found);
  const figure = (title, name, shown = count) => (of.has(name) ? [[title, shown(of.get(name))]] : []);
  const figures = [
    figure("Running", "process_start_time_seconds", (start) => `since ${ago(start)}`),
    figure("Shadows", 'umbra_shadows{state="live"}'),
    figure("Devices connected", "umbra_devices_connected"),
    figure("MQTT sessions, connected", 'umbra_sessions{state="connected"}'),
    figure("MQTT sessions, disconnected", 'umbra_sessions{state="disconnected"}'),
    figure("Retained messages", "umbra_retained_messages"),
    figure("Updates accepted", 'umbra_requests_total{operation="update",outcome="accepted"}'),
    figure("Changes in the journal", "umbra_journal_entries"),
    figure("Store file", "umbra_store_file_bytes", bytes),
    figure("Free disk", "umbra_store_free_disk_bytes", bytes),
    figure("Memory", "process_resident_memory_bytes", bytes),
  ].flat();
  return { version: info.version, ready, listeners, figures };
}

/** It does not change while the service runs. */
let described;
const description = () => (described ??= ask("GET", "/openapi.json").catch((error) => {
  described = undefined;
  throw error;
}));
