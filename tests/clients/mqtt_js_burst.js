// MQTT.js publishes many messages at QoS 0 at once; each must arrive, once, and the connection must stay.
//
// Usage: node mqtt_js_burst.js URL COUNT KEEP_ALIVE

"use strict";

const assert = require("node:assert");
const { connectAsync } = require("mqtt");

const url = process.argv[2];
const [count, keepalive] = process.argv.slice(3).map(Number);
const deadline = Number(process.env.UMBRA_TEST_DEADLINE ?? 120) * 1000;

async function main() {
  const receiver = await connectAsync(url, { clientId: "receiver" });
  const received = [];
  await receiver.subscribeAsync("burst/t");
  const all = new Promise((resolve) => {
    receiver.on("message", (_topic, payload) => {
      received.push(Number(payload));
      if (received.length > count) resolve();
    });
  });
  const sender = await connectAsync(url, { clientId: "sender", keepalive, reschedulePings: false });
  const lost = [];
  for (const event of ["close", "error", "reconnect", "offline"]) sender.on(event, (cause) => lost.push([event, cause]));
  for (let number = 0; number <= count; number += 1) sender.publish("burst/t", String(number));
  await all;
  assert.deepStrictEqual(lost, []);
  assert.deepStrictEqual(received, Array.from({ length: count + 1 }, (_, number) => number));
  await Promise.all([receiver.endAsync(), sender.endAsync()]);
}

setTimeout(() => {
  console.log("it took too long");
  process.exit(1);
}, deadline).unref();
main().catch((error) => {
  console.log(error);
  process.exit(1);
});
