// What is known of a device, whatever its shadow: its connection, its address, its shadows.

import { useEffect, useRef, useState } from "preact/hooks";

import { ago, clock } from "./format.js";
import { ask } from "./http.js";

/** Returns `{connected, connectedSince, lastSeen, protocol, address, shadows}`, as far as the reader may see it. */
export function useDeviceInfo(device, live) {
  const [info, setInfo] = useState({});
  const turn = useRef(0);
  useEffect(() => {
    const load = async () => {
      const mine = (turn.current += 1);
      // A device without shadows is not there; MQTT may know its presence.
      const found = await ask("GET", `/v1/devices/${encodeURIComponent(device)}`).catch(() => ({}));
      if (mine === turn.current) setInfo((held) => ({ ...held, connectedSince: undefined, address: undefined, ...found }));
    };
    load();
    const offs = [
      live.onResume(load),
      live.on(`shadow/${device}/presence`, (_, message) => {
        if (message === null) return;
        setInfo((held) => ({ ...held, connected: message.connected, lastSeen: message.lastSeen }));
        load();
      }),
    ];
    return () => offs.forEach((off) => off());
  }, [device]);
  return info;
}

export function DeviceInfo({ info, now }) {
  const { connected, connectedSince, lastSeen, protocol, address, shadows = [] } = info;
  const facts = [
    ["Address", address],
    ["Protocol", protocol],
    connected ? ["Connected", connectedSince && <span title={clock(connectedSince)}>{ago(connectedSince, now)}</span>] : ["Last seen", lastSeen && <span title={clock(lastSeen)}>{ago(lastSeen, now)}</span>],
    ["Shadows", shadows.length > 1 && shadows.length],
  ].filter(([, value]) => value);
  if (facts.length === 0) return null;
  return <dl class="facts">{facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}</dl>;
}
