// Commands for a terminal that do what the page does, with the addresses of this service.

import { useEffect, useState } from "preact/hooks";

import { ask } from "./http.js";

/** A text to copy, under its title. */
export function Command({ title, text }) {
  return (
    <div class="command">
      <div class="title">
        <h3>{title}</h3>
        <span class="spring" />
        <Copy label={title} text={text} />
      </div>
      <pre tabIndex={0}><code>{text}</code></pre>
    </div>
  );
}

/** Without a secure context there is no clipboard; the text can be selected. */
export function Copy({ label, text, children = "Copy" }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => setCopied(false), [text]);
  const copy = () => navigator.clipboard.writeText(text).then(() => setCopied(true), () => {});
  if (!navigator.clipboard) return null;
  return <button type="button" class="quiet" aria-label={`Copy: ${label}`} onClick={copy}>{copied ? "Copied" : children}</button>;
}

/** Returns the MQTT listener that is the least trouble: `undefined` while it is not known, `null` without one; and a problem. */
export function useMqttListener() {
  const [mqtt, setMqtt] = useState(undefined);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    ask("GET", "/session/mqtt")
      .then(({ listeners }) => setMqtt(chosen(listeners) ?? null))
      .catch((error) => setProblem(error.message));
  }, []);
  return [mqtt, problem];
}

/** Without credentials, without TLS. */
function chosen(listeners) {
  const trouble = ({ anonymous, tls }) => (anonymous ? 0 : 2) + (tls ? 1 : 0);
  return [...listeners].sort((a, b) => trouble(a) - trouble(b))[0];
}

/** Returns a text as one word of a POSIX shell. */
export const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** Returns the beginning of a command of mosquitto's; `client` is its client id. */
export function mosquitto(command, { host, port, tls, anonymous }, client) {
  const address = `-h ${host ?? location.hostname.replace(/^\[|\]$/g, "")} -p ${port}${tls ? " --cafile ca.pem" : ""}`;
  return `${command} ${address}${client ? ` -i ${client}` : ""}${anonymous ? "" : " -u NAME -P PASSWORD"} -q 1`;
}

/** Returns the command that publishes `message` as JSON. */
export const published = (listener, client, topic, message) => `${mosquitto("mosquitto_pub", listener, client)} \\\n  -t ${quoted(topic)} -m ${quoted(JSON.stringify(message))}`;

/** Returns the command that sends a request. `needsName`: the listener wants to know its clients. */
export function curl(needsName, method, path, headers = {}, body = undefined) {
  const flags = `${needsName ? "-u NAME:PASSWORD " : ""}${location.protocol === "https:" ? "--cacert ca.pem " : ""}`;
  const lines = [`curl ${flags}${method === "GET" ? "" : `-X ${method} `}${quoted(location.origin + path)}`];
  const fields = Object.entries(headers).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`);
  if (fields.length > 0 || body !== undefined) lines.push([...fields, ...(body === undefined ? [] : [`-d ${quoted(JSON.stringify(body))}`])].join(" "));
  return lines.join(" \\\n  ");
}

export function webSocketUrl() {
  const url = new URL("/mqtt", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}
