// Retained messages of ordinary topics.

import { Fragment } from "preact";
import { useEffect, useState } from "preact/hooks";

import { addressOf } from "./address.js";
import { Dialog } from "./dialog.jsx";
import { ago, clock, count, plural } from "./format.js";
import { useNow } from "./frames.js";
import { ask } from "./http.js";
import { useList } from "./pages.js";
import { bytesOf, payloadText } from "./payload.js";

export function RetainedView({ params, live }) {
  const [prefix, setPrefix] = useState(params.prefix ?? "");
  const [open, setOpen] = useState(null);
  const [clearing, setClearing] = useState(null);
  const now = useNow(5000);
  const { entries, loading, problem, more, again } = useList(`/v1/retained?${new URLSearchParams(prefix && { prefix })}`, "retained");
  const change = (next) => {
    setPrefix(next);
    history.replaceState(null, "", addressOf("retained", [], { prefix: next }));
  };
  return (
    <section aria-labelledby="retained-title">
      <div class="title">
        <h1 id="retained-title">Retained messages</h1>
        <span class="muted" role="status">{loading && entries.length === 0 ? "loading…" : `${plural(entries.length, "topic")}${more ? " and more" : ""}`}</span>
      </div>
      <div class="filters" role="search">
        <input type="search" aria-label="Topics that begin with" placeholder="Topics that begin with …" value={prefix} autocapitalize="none" spellcheck={false} onInput={(event) => change(event.target.value)} />
        <button onClick={again}>Read again</button>
      </div>
      {problem && <p class="problem" role="alert">{problem.message}</p>}
      {entries.length > 0 && (
        <div class="card scroll" tabIndex={0} role="region" aria-label="Retained messages">
          <table class="list">
            <thead><tr><th scope="col">Topic</th><th scope="col" class="num">Bytes</th><th scope="col">QoS</th><th scope="col">Published by</th><th scope="col">When</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
            <tbody>
              {entries.map((message) => (
                <Fragment key={message.topic}>
                  <tr>
                    <th scope="row">{message.topic}</th>
                    <td class="num">{count(message.bytes)}</td>
                    <td>{message.qos}</td>
                    <td>{message.by}</td>
                    <td><span title={clock(message.since)}>{ago(message.since, now)}</span></td>
                    <td class="buttons">
                      <button class="quiet" aria-expanded={open === message.topic} aria-label={`Payload of ${message.topic}`} onClick={() => setOpen(open === message.topic ? null : message.topic)}>Payload</button>
                      <button class="quiet" aria-label={`Clear ${message.topic}`} onClick={() => setClearing(message)}>Clear</button>
                    </td>
                  </tr>
                  {open === message.topic && <tr><td colSpan={6}><Payload topic={message.topic} /></td></tr>}
                </Fragment>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {entries.length === 0 && !loading && !problem && <p class="card empty">No topic has a retained message.</p>}
      {more && <div><button onClick={more} disabled={loading}>More topics</button></div>}
      {clearing && <Clearing topic={clearing.topic} live={live} onClose={() => setClearing(null)} onDone={() => { setClearing(null); again(); }} />}
    </section>
  );
}

function Payload({ topic }) {
  const [found, setFound] = useState(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    ask("GET", `/retainedMessage/${encodeURIComponent(topic)}`).then(({ payload }) => setFound(payloadText(bytesOf(payload))), (error) => setProblem(error.message));
  }, []);
  if (problem) return <p class="problem" role="alert">{problem}</p>;
  if (found === null) return <p class="muted" role="status">Loading…</p>;
  return <pre tabIndex={0}><code>{found.text}</code></pre>;
}

function Clearing({ topic, live, onClose, onDone }) {
  const [problem, setProblem] = useState("");
  const clear = (event) => {
    event.preventDefault();
    live.publish(topic, "", { qos: 1, retain: true }).then(onDone, (error) => setProblem(error.message));
  };
  return (
    <Dialog title="Clear the retained message?" onCancel={onClose}>
      <form class="form" onSubmit={clear}>
        <p>An empty retained message is published to <code>{topic}</code>. New subscribers receive nothing from then on; the present ones receive the empty message.</p>
        <p class="problem" role="alert">{problem}</p>
        <div class="actions">
          <button class="danger">Clear</button>
          <button type="button" onClick={onClose}>Keep</button>
        </div>
      </form>
    </Dialog>
  );
}
