// The commands that connect a first device, shown while there is none.

import { useEffect, useState } from "preact/hooks";

import { ask } from "./http.js";

export function FirstDevice({ session }) {
  const [mqtt, setMqtt] = useState(undefined);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    ask("GET", "/session/mqtt")
      .then(({ listeners }) => setMqtt(chosen(listeners) ?? null))
      .catch((error) => setProblem(error.message));
  }, []);
  const needsName = session.method !== "anonymous";
  const isNamed = needsName || (mqtt && !mqtt.anonymous);
  return (
    <section class="first" aria-labelledby="fleet-title">
      <div class="title">
        <h1 id="fleet-title">Fleet</h1>
        <span class="muted" role="status">no devices yet</span>
      </div>
      <div class="card guide">
        <h2>Connect the first device</h2>
        <p class="muted">A device is here as soon as it reports something. Run one of these in a terminal:</p>
        {mqtt && <Command title="Report over MQTT, as a device does" text={overMqtt(mqtt)} />}
        {mqtt === null && <p class="muted">No listener is for MQTT over TCP. Clients that speak MQTT over WebSocket connect to <code>{webSocket()}</code></p>}
        <Command title="Report over HTTP" text={overHttp(needsName)} />
        {isNamed && <p class="muted">Put the name and password of a user of the service in the place of <code>NAME</code> and <code>PASSWORD</code>. By default a device may write its own shadow, so its name is its id.</p>}
        {mqtt?.tls && <p class="muted"><code>ca.pem</code> is the file of the authority that has signed the service's certificate.</p>}
        {problem && <p class="problem" role="alert">{problem}</p>}
        <p class="muted">The device then shows here by itself. Open it to see what it reports, and to set what is desired of it.</p>
      </div>
    </section>
  );
}

function Command({ title, text }) {
  const [copied, setCopied] = useState(false);
  const copy = () => navigator.clipboard.writeText(text).then(() => setCopied(true), () => {});
  return (
    <div class="command">
      <div class="title">
        <h3>{title}</h3>
        <span class="spring" />
        {navigator.clipboard && <button class="quiet" aria-label={`Copy: ${title}`} onClick={copy}>{copied ? "Copied" : "Copy"}</button>}
      </div>
      <pre tabIndex={0}><code>{text}</code></pre>
    </div>
  );
}

/** The listener that is the least trouble: without credentials, without TLS. */
function chosen(listeners) {
  const trouble = ({ anonymous, tls }) => (anonymous ? 0 : 2) + (tls ? 1 : 0);
  return [...listeners].sort((a, b) => trouble(a) - trouble(b))[0];
}

function overMqtt({ host, port, tls, anonymous }) {
  const address = `-h ${host ?? location.hostname.replace(/^\[|\]$/g, "")} -p ${port}${tls ? " --cafile ca.pem" : ""}`;
  const who = anonymous ? "-i lamp-1" : "-i lamp-1 -u NAME -P PASSWORD";
  return `mosquitto_pub ${address} ${who} -q 1 \\\n  -t shadow/lamp-1/update -m '{"state":{"reported":{"temperature":21.5}}}'`;
}

function overHttp(needsName) {
  const flags = `${needsName ? "-u NAME:PASSWORD " : ""}${location.protocol === "https:" ? "--cacert ca.pem " : ""}`;
  return `curl ${flags}-X PUT ${location.origin}/v1/devices/lamp-2/shadow \\\n  -H 'If-None-Match: *' -H 'Content-Type: application/json' -d '{"reported":{"temperature":21.5}}'`;
}

function webSocket() {
  const url = new URL("/mqtt", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}
