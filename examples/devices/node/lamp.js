// A lamp that obeys its shadow, with MQTT.js 5: node lamp.js [DEVICE] [URL]
const mqtt = require("mqtt");

const device = process.argv[2] ?? "lamp-1";
const url = process.argv[3] ?? "mqtt://127.0.0.1:1883";
const shadow = `shadow/${device}`;
const state = { power: "off" };
let seen = 0; // the newest version that was obeyed

const client = mqtt.connect(url, { clientId: device, keepalive: 60, reconnectPeriod: 2000, resubscribe: false });

const report = () => client.publish(`${shadow}/update`, JSON.stringify({ state: { reported: state } }), { qos: 1 });

function obey(version, delta) {
  if (version < seen) return; // older than what was obeyed already
  seen = version;
  if (delta.power === "on" || delta.power === "off") {
    state.power = delta.power;
    console.log("power", state.power);
  }
  report();
}

client.on("connect", () => {
  const filters = [`${shadow}/update/delta`, `${shadow}/update/rejected`, `${shadow}/get/+`];
  client.subscribe(filters, { qos: 1 }, (error) => {
    if (error) return console.error("not subscribed:", error.message);
    // Only now: what changes from here on is heard as a delta.
    client.publish(`${shadow}/get`, "", { qos: 1 });
  });
});

client.on("message", (topic, payload) => {
  const body = JSON.parse(payload);
  const kind = topic.slice(shadow.length + 1);
  if (kind === "update/delta") obey(body.version, body.state);
  else if (kind === "get/accepted") obey(body.version, body.state.delta ?? {});
  else if (kind === "get/rejected" && body.code === 404) report(); // the first report makes the shadow
  else console.log(kind, body.code, body.message);
});

client.on("error", (error) => console.error(error.message));
