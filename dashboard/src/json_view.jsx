// A shadow as the service sends it, and the commands that read, follow and change it.

import { Command, curl, mosquitto, published, quoted, useMqttListener } from "./command.jsx";
import { patchRequest, shadowPath } from "./http.js";
import { prefix } from "./live.js";

export function JsonView({ device, name, shadow, needsName }) {
  const [mqtt, problem] = useMqttListener();
  const desired = { desired: shadow.state.desired ?? {} };
  const { path, headers } = patchRequest(device, name, shadow.version);
  return (
    <div class="card guide">
      <Command title="The shadow" text={JSON.stringify(shadow, null, 2)} />
      <Command title="Read with curl" text={curl(needsName, "GET", shadowPath(device, name))} />
      <Command title="Change with curl" text={curl(needsName, "PATCH", path, headers, desired)} />
      {mqtt && <Command title="Change with mosquitto_pub" text={published(mqtt, "", `${prefix(device, name)}/update`, { state: desired, version: shadow.version, onConflict: "rebase" })} />}
      {mqtt && <Command title="Follow with mosquitto_sub" text={`${mosquitto("mosquitto_sub", mqtt, "")} -v \\\n  -t ${quoted(`${prefix(device, name)}/#`)}`} />}
      {problem && <p class="problem" role="alert">{problem}</p>}
      <p class="muted">A change is for this version: it is refused where a field that it sets has changed since. {(needsName || (mqtt && !mqtt.anonymous)) && <>Put your name and password in the place of <code>NAME</code> and <code>PASSWORD</code>.</>}</p>
    </div>
  );
}
