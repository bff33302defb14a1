// A lamp that obeys its shadow, with MQTT.js 5: node lamp.js [DEVICE] [URL]
const mqtt = require("mqtt");

const device = process.argv[2] ?? "lamp-1";
const url = process.argv[3] ?? "mqtt://127.0.0.1:1883";
const shadow = `shadow/${device}`;
const state = { power: "off" };
let seen = 0; // the newest version that was obeyed over this connection

const client = mqtt.connect(url, { clientId: device, keepalive: 60, reconnectPeriod: 2000, resubscribe: false });

const report = () =>
  client.publish(`${shadow}/update`, JSON.stringify({ state: { reported: state }, metadata: false }), { qos: 1 });

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
  seen = 0;
  client.subscribe([`${shadow}/delta`, `${shadow}/update/rejected`], { qos: 1 }, (error) => {
    if (error) console.error("not subscribed:", error.message);
  });
  report(); // the first report makes the shadow
});

client.on("message", (topic, payload) => {
  if (payload.length === 0) return; // nothing is left to do
  const body = JSON.parse(payload);
  if (topic === `${shadow}/delta`) obey(body.version, body.state);
  else console.log("rejected:", body.code, body.message);
});

client.on("error", (error) => console.error(error.message));
