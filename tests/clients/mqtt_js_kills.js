// MQTT.js's reconnecting client, as Node-RED uses it, on a server that is killed under load.
//
// Usage: node mqtt_js_kills.js URL 4|5 ROUNDS
//
// The script prints `kill`, and the caller kills the server and starts it again. The clients connect again by
// themselves, and send what was not acknowledged. At the end each session has each message: those at QoS 2 once, and
// those at QoS 1 at least once.

"use strict";

const assert = require("node:assert");
const { connect } = require("mqtt");

const [url, version] = process.argv.slice(2);
const rounds = Number(process.argv[4]);
const deadline = Number(process.env.UMBRA_TEST_DEADLINE ?? 120) * 1000;
// Fewer than the server lets a client have under way: MQTT.js sends all of them again at once.
const WINDOW = 20;
const [ROUND, BEFORE_KILL] = [240, 100];
const PACKET_IDENTIFIER_NOT_FOUND = 0x92;

function open(clientId) {
  return connect(url, {
    clientId,
    clean: false,
    protocolVersion: Number(version),
    properties: version === "5" ? { sessionExpiryInterval: 100_000 } : undefined,
    reconnectPeriod: 50,
    connectTimeout: deadline,
  });
}

function event(emitter, name) {
  return new Promise((resolve) => emitter.once(name, resolve));
}

// Counts of each message, by session.
const received = { here: new Map(), away: new Map() };
const waiting = [];

function receive(name, client) {
  client.on("message", (topic, payload, packet) => {
    const [, qos] = topic.split("/").map(Number);
    assert.strictEqual(packet.qos, qos, `${name}: ${topic}`);
    const key = `${qos} ${payload}`;
    received[name].set(key, (received[name].get(key) ?? 0) + 1);
    waiting.splice(0).forEach((resolve) => resolve());
  });
}

async function until(isReached) {
  while (!isReached()) await new Promise((resolve) => waiting.push(resolve));
}

let sent = 0;
let acknowledged = 0;

async function publish(sender, number) {
  const qos = 1 + (number % 2);
  try {
    await sender.publishAsync(`js/${qos}`, String(number), { qos });
  } catch (error) {
    // PUBREL comes again when PUBCOMP was lost: no error by the standard, but one for MQTT.js.
    assert.ok(qos === 2 && error.code === PACKET_IDENTIFIER_NOT_FOUND, error);
  }
}

async function publishRound(sender) {
  let killed = false;
  const last = sent + ROUND;
  const kill = acknowledged + BEFORE_KILL;
  const lane = async () => {
    while (sent < last) {
      const number = (sent += 1);
      await publish(sender, number);
      acknowledged += 1;
      if (acknowledged >= kill && !killed) {
        killed = true;
        console.log("kill");
      }
    }
  };
  await Promise.all(Array.from({ length: WINDOW }, lane));
}

function check(name) {
  for (let number = 1; number <= sent; number += 1) {
    const qos = 1 + (number % 2);
    const count = received[name].get(`${qos} ${number}`);
    assert.ok(qos === 2 ? count === 1 : count >= 1, `${name}: ${number} at QoS ${qos} came ${count} times`);
  }
}

async function main() {
  const sender = open("sender");
  const here = open("here");
  let away = open("away");
  await Promise.all([sender, here, away].map((client) => event(client, "connect")));
  for (const client of [here, away]) {
    const granted = await client.subscribeAsync("js/+", { qos: 2 });
    assert.strictEqual(granted[0].qos, 2);
  }
  receive("here", here);
  receive("away", away);
  let reconnects = 0;
  sender.on("reconnect", () => (reconnects += 1));
  for (let round = 0; round < rounds; round += 1) {
    const isAway = round % 2 === 0;
    if (isAway) await away.endAsync();
    await publishRound(sender);
    if (isAway) {
      away.reconnect();
    }
    await until(() => received.here.size === sent && received.away.size === sent);
  }
  // What would come twice comes before it.
  sent += 1;
  await publish(sender, sent);
  await until(() => received.here.size === sent && received.away.size === sent);
  check("here");
  check("away");
  console.log("MQTT.js", version, rounds, "kills,", sent, "messages,", reconnects, "attempts to connect again");
  await Promise.all([sender, here, away].map((client) => client.endAsync()));
  process.exit(0);
}

setTimeout(() => {
  const missing = [received.here.size, received.away.size];
  console.error("it took too long", { sent, acknowledged, missing });
  process.exit(1);
}, deadline).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
