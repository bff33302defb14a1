// The commands that connect a first device, shown while there is none.

import { Command, curl, published, useMqttListener, webSocketUrl } from "./command.jsx";
import { shadowPath } from "./http.js";

const STATE = { reported: { temperature: 21.5 } };

export function FirstDevice({ session, onCreate }) {
  const [mqtt, problem] = useMqttListener();
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
        {mqtt && <Command title="Report over MQTT, as a device does" text={published(mqtt, "lamp-1", "shadow/lamp-1/update", { state: STATE })} />}
        {mqtt === null && <p class="muted">No listener is for MQTT over TCP. Clients that speak MQTT over WebSocket connect to <code>{webSocketUrl()}</code></p>}
        <Command title="Report over HTTP" text={curl(needsName, "PUT", shadowPath("lamp-2"), { "If-None-Match": "*", "Content-Type": "application/json" }, STATE)} />
        {isNamed && <p class="muted">Put the name and password of a user of the service in the place of <code>NAME</code> and <code>PASSWORD</code>. By default a device may write its own shadow, so its name is its id.</p>}
        {mqtt?.tls && <p class="muted"><code>ca.pem</code> is the file of the authority that has signed the service's certificate.</p>}
        {problem && <p class="problem" role="alert">{problem}</p>}
        <p class="muted">The device then shows here by itself. Open it to see what it reports, and to set what is desired of it.</p>
        <div class="actions"><button onClick={onCreate}>Create a device here</button><span class="muted">if it is to find what is desired of it when it connects.</span></div>
      </div>
    </section>
  );
}
