// An MQTT client over WebSocket: connect, subscribe, publish, and see what comes.

import { useState } from "preact/hooks";

import { webSocketUrl } from "./command.jsx";
import { clock, plural } from "./format.js";
import { useChanges } from "./frames.js";
import { filterProblem, topicProblem } from "./payload.js";

const QOS = [0, 1, 2];

export function MqttView({ client, session }) {
  useChanges(client);
  const isOn = client.status === "on";
  return (
    <section aria-labelledby="mqtt-title">
      <div class="title">
        <h1 id="mqtt-title">MQTT client</h1>
        <span class="muted" role="status">{{ off: "not connected", connecting: "connecting…", on: `connected as ${client.options.clientId}` }[client.status]}</span>
      </div>
      {client.problem && <p class="problem" role="alert">{client.problem}</p>}
      {isOn || client.status === "connecting" ? (
        <>
          <div class="panes">
            <Subscribe client={client} disabled={!isOn} />
            <Publish client={client} disabled={!isOn} />
          </div>
          <div class="actions"><button onClick={() => client.disconnect()}>Disconnect</button></div>
        </>
      ) : (
        <Connect client={client} session={session} />
      )}
      <Messages client={client} />
    </section>
  );
}

function Connect({ client, session }) {
  const { clientId, version, clean, keepalive, username } = client.options;
  const connect = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    client.connect({ ...Object.fromEntries(form), clean: form.has("clean") });
  };
  return (
    <form class="card form fill" onSubmit={connect}>
      <p class="muted">A connection to <code>{webSocketUrl()}</code>, beside that of this page. Without a user name it is made as {session.method === "anonymous" ? "an anonymous client" : session.principal}.</p>
      <div class="columns">
        <label>Client id<input name="clientId" defaultValue={clientId} maxLength={256} autocomplete="off" autocapitalize="none" spellcheck={false} /></label>
        <label>Version<select name="version" defaultValue={version}><option value="5">MQTT 5</option><option value="4">MQTT 3.1.1</option></select></label>
        <label>Keep alive, in seconds<input name="keepalive" type="number" min={0} max={65535} defaultValue={keepalive} required /></label>
        <label>User name<input name="username" defaultValue={username} autocomplete="off" autocapitalize="none" spellcheck={false} /></label>
        <label>Password or token<input name="password" type="password" autocomplete="off" /></label>
      </div>
      <label class="check"><input type="checkbox" name="clean" defaultChecked={clean} />Clean start: without the messages and subscriptions of a session before. Otherwise the session is kept for an hour</label>
      <div class="actions"><button class="primary">Connect</button></div>
    </form>
  );
}

function Subscribe({ client, disabled }) {
  const [problem, setProblem] = useState("");
  const subscribe = (event) => {
    event.preventDefault();
    const { filter, qos } = Object.fromEntries(new FormData(event.target));
    const wrong = filterProblem(filter);
    setProblem(wrong);
    if (!wrong) client.subscribe(filter, Number(qos));
  };
  return (
    <form class="card form fill" onSubmit={subscribe} aria-label="Subscribe">
      <h2>Subscribe</h2>
      <label>Filter<input name="filter" defaultValue="#" autocapitalize="none" spellcheck={false} /></label>
      <Qos />
      {problem && <p class="problem" role="alert">{problem}</p>}
      <div class="actions"><button disabled={disabled}>Subscribe</button></div>
      <ul class="views">
        {[...client.filters].map(([filter, note]) => (
          <li key={filter}><span><code>{filter}</code> <small>{note}</small></span><button type="button" class="quiet" aria-label={`Unsubscribe from ${filter}`} onClick={() => client.unsubscribe(filter)}>✕</button></li>
        ))}
      </ul>
    </form>
  );
}

function Publish({ client, disabled }) {
  const [problem, setProblem] = useState("");
  const publish = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const { topic, payload, qos } = Object.fromEntries(form);
    const wrong = topicProblem(topic);
    setProblem(wrong);
    if (!wrong) client.publish(topic, payload, Number(qos), form.has("retain"));
  };
  const press = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.form.requestSubmit();
  };
  return (
    <form class="card form fill" onSubmit={publish} aria-label="Publish">
      <h2>Publish</h2>
      <label>Topic<input name="topic" placeholder="house/hall/light" autocapitalize="none" spellcheck={false} /></label>
      <label>Payload<textarea name="payload" rows={3} spellcheck={false} onKeyDown={press} /></label>
      <Qos />
      <label class="check"><input type="checkbox" name="retain" />Retain</label>
      {problem && <p class="problem" role="alert">{problem}</p>}
      <div class="actions"><button disabled={disabled} title="Ctrl + Enter">Publish</button></div>
    </form>
  );
}

const Qos = () => <label>QoS<select name="qos" defaultValue="1">{QOS.map((qos) => <option key={qos} value={qos}>{["0, at most once", "1, at least once", "2, exactly once"][qos]}</option>)}</select></label>;

function Messages({ client }) {
  const [held, setHeld] = useState(null);
  const messages = held ?? client.messages;
  if (messages.length === 0) return null;
  return (
    <>
      <div class="title">
        <h2>Messages</h2>
        <span class="muted">{plural(messages.length, "line")}</span>
        <span class="spring" />
        <button aria-pressed={held !== null} onClick={() => setHeld(held ? null : client.messages)}>{held ? "Resume" : "Pause"}</button>
        <button onClick={() => { setHeld(null); client.clear(); }}>Clear</button>
      </div>
      <div class="log card" role="log" aria-live="off" aria-label="Messages" tabIndex={0}>
        <ol class="feed">{messages.map((message) => <Line key={message.key} {...message} />)}</ol>
      </div>
    </>
  );
}

const KINDS = { in: ["received", "good"], out: ["published", ""], note: ["connection", "warn"] };

function Line({ at, direction, topic, text, qos, retain, note }) {
  const [kind, tone] = KINDS[direction];
  return (
    <li>
      <time class="muted">{clock(at)}</time>
      <span class={`badge ${tone}`}>{kind}</span>
      <span class="what">
        {topic && <b>{topic}</b>}
        {direction !== "note" && <code class="payload">{text || <em>empty</em>}</code>}
        {note && <span class="muted">{note}</span>}
      </span>
      {qos !== undefined && <span class="muted num">QoS {qos}{retain && ", retained"}</span>}
    </li>
  );
}
