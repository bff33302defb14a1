// What MQTT.js, in one version of MQTT, sees of the server over WebSocket.
//
// Usage: node mqtt_js_client.js URL 4|5
//
// Every wait is for a thing, with a deadline no healthy machine reaches.

"use strict";

const assert = require("node:assert");
const { connectAsync } = require("mqtt");

const [url, version] = process.argv.slice(2);
const V5 = version === "5";
const deadline = Number(process.env.UMBRA_TEST_DEADLINE ?? 120) * 1000;

// A connected client whose messages wait in a queue.
class Peer {
  static async connect(clientId, options = {}) {
    const peer = new Peer();
    const client = await connectAsync(url, {
      clientId,
      protocolVersion: Number(version),
      reconnectPeriod: 0,
      ...options,
    });
    peer.client = client;
    peer.received = [];
    peer.waiting = null;
    client.on("message", (topic, payload, packet) => {
      peer.received.push({ topic, payload: payload.toString(), retain: packet.retain, qos: packet.qos });
      peer.waiting?.();
    });
    return peer;
  }

  async message() {
    if (this.received.length === 0) {
      await new Promise((resolve) => (this.waiting = resolve));
      this.waiting = null;
    }
    return this.received.shift();
  }

  async subscribe(filter, qos) {
    const granted = await this.client.subscribeAsync(filter, { qos });
    assert.deepStrictEqual(granted.map((grant) => grant.qos), [qos]);
  }
}

async function everyQos() {
  const [sender, receiver] = [await Peer.connect("sender"), await Peer.connect("receiver")];
  for (const granted of [0, 1, 2]) {
    await receiver.subscribe("q/+", granted);
    for (const qos of [0, 1, 2]) {
      await sender.client.publishAsync("q/t", `hällo ${qos}`, { qos });
      const { topic, payload, qos: found } = await receiver.message();
      assert.deepStrictEqual([topic, payload, found], ["q/t", `hällo ${qos}`, Math.min(qos, granted)]);
    }
  }
  await Promise.all([sender.client.endAsync(), receiver.client.endAsync()]);
}

// In frames of any number, both ways.
async function largeMessages() {
  const peer = await Peer.connect("large");
  await peer.subscribe("large", 1);
  for (const size of [1, 125, 126, 65_535, 65_536, 100_000]) {
    await peer.client.publishAsync("large", "x".repeat(size), { qos: 1 });
    assert.strictEqual((await peer.message()).payload.length, size);
  }
  await peer.client.endAsync();
}

async function wills() {
  const watcher = await Peer.connect("watcher");
  await watcher.subscribe("will/t", 1);
  const mortal = await Peer.connect("mortal", { will: { topic: "will/t", payload: "died", qos: 1 } });
  mortal.client.stream.destroy();
  assert.strictEqual((await watcher.message()).payload, "died");
  await watcher.client.endAsync();
}

async function shadow() {
  const peer = await Peer.connect("dashboard");
  await peer.subscribe("shadow/js/update/+", 1);
  await peer.client.publishAsync("shadow/js/update", '{"state":{"desired":{"on":true}},"version":0}', { qos: 1 });
  const names = [];
  while (names.length < 3) {
    names.push((await peer.message()).topic.split("/").pop());
  }
  assert.deepStrictEqual(names, ["delta", "documents", "accepted"]);
  // The second one is refused: MQTT 5 says so in the acknowledgement, which MQTT.js makes an error.
  const stale = peer.client.publishAsync("shadow/js/update", '{"state":{"desired":{"on":false}},"version":0}', { qos: 1 });
  if (V5) {
    await assert.rejects(stale, (error) => error.code === 0x83);
  } else {
    await stale;
  }
  const rejected = await peer.message();
  assert.deepStrictEqual([rejected.topic, JSON.parse(rejected.payload).code], ["shadow/js/update/rejected", 409]);
  await peer.subscribe("shadow/js/document", 0);
  const document = await peer.message();
  assert.deepStrictEqual([document.retain, JSON.parse(document.payload).version], [true, 1]);
  await peer.client.endAsync();
}

async function main() {
  const late = setTimeout(() => {
    console.error("nothing more came");
    process.exit(1);
  }, deadline);
  for (const scenario of [everyQos, largeMessages, wills, shadow]) {
    await scenario();
    console.log("MQTT.js", version, scenario.name, "ok");
  }
  clearTimeout(late);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
